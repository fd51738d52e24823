"""A new file in place of whatever was there: what somebody planted is neither followed nor kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def fresh_file(path: Path) -> BinaryIO:
    """Return ``path`` opened for writing, as a new file that this user alone can read.

    Raises:
        OSError: a folder is there, or somebody made it anew at the same moment.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
