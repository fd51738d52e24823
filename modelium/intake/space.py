"""Whether what is to be copied or unpacked fits on the disk."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from modelium.intake.fingerprint import fingerprint
from modelium.models import GIB


def need_space(folder: Path, wanted: int) -> None:
    """Raise `OSError` where ``wanted`` bytes do not fit on the file system of ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise OSError(
            errno.ENOSPC,
            f"it takes {wanted / GIB:.1f} GiB more, and {free / GIB:.1f} GiB are free",
            str(folder),
        )


def size_of(path: Path) -> int:
    """Return the bytes of what is at ``path``."""
    found = fingerprint(path)
    return found.total_bytes if found else 0
