"""A folder for Unix sockets that no other user can enter."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from modelium.errors import Unavailable

LONGEST_PATH = 107
"""Bytes of an AF_UNIX path, which ends with a zero byte."""


def socket_folder(beside: Path, *, longest_name: int) -> Path:
    """Return ``beside``, or a folder of the user in /tmp where socket paths would be too long.

    Args:
        beside: the preferred folder.
        longest_name: bytes of the longest file name that is needed in it.
    """
    if len(os.fsencode(beside)) + 1 + longest_name <= LONGEST_PATH:
        return beside
    digest = hashlib.sha256(os.fsencode(beside)).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"modelium-{os.getuid()}-{digest}"


def make_private(folder: Path) -> None:
    """Create ``folder`` for this user alone.

    Raises:
        Unavailable: it is a link or belongs to another user, who made it first.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Unavailable(f"{folder} is not a folder of this user: remove it, then try again")
    folder.chmod(0o700)


def empty(folder: Path) -> None:
    """Remove what is in ``folder``, whatever it is; no link is followed."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
