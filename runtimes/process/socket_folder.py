"""A folder for Unix sockets that no other user can enter."""

from __future__ import annotations

import contextlib
import errno
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

    The latter is made where it is missing, and is the same as long as it exists. Its name ends at
    random: another user who made it first would keep engines from starting. It is not in
    ``XDG_RUNTIME_DIR``, which is removed when the user logs out, while engines go on.

    Args:
        beside: the preferred folder.
        longest_name: bytes of the longest path that is needed in it.
    """
    if len(os.fsencode(beside)) + 1 + longest_name <= LONGEST_PATH:
        return beside
    # A short name: with eight random characters, Ray's paths fit below a TMPDIR of 18 bytes, too.
    digest = hashlib.sha256(os.fsencode(beside)).hexdigest()[:6]
    shared, prefix = tempfile.gettempdir(), f"modelium-{digest}"
    with os.scandir(shared) as entries:
        ours = sorted(e.path for e in entries if e.name.startswith(prefix) and _is_ours(e))
    return Path(ours[0] if ours else tempfile.mkdtemp(prefix=prefix, dir=shared))


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder of this user, which nobody else can make, in /tmp as it is shared."""
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def make_private(folder: Path) -> None:
    """Create ``folder`` for this user alone.

    Raises:
        Unavailable: it is a link or belongs to another user, who made it first.
    """
    os.close(open_private(folder))


def open_private(folder: Path, *, changeable: Path | None = None) -> int:
    """Create ``folder`` for this user alone and return its descriptor.

    Args:
        folder: is never reached through a link that an engine may have laid.
        changeable: a folder above it that engines may change: in it no link is followed, and one in
            the place of ``folder`` is removed.

    Raises:
        Unavailable: it is a link or belongs to another user, who made it first.
    """
    base = changeable or folder.parent
    base.mkdir(parents=True, exist_ok=True)
    place = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    names = folder.relative_to(base).parts
    for depth, name in enumerate(names, 1):
        outer = place
        try:
            if changeable and depth == len(names):
                _remove_other(name, outer)
            place = _enter(name, outer)
        except OSError as exc:
            if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise _foreign(base.joinpath(*names[:depth])) from exc
        finally:
            os.close(outer)
    if os.fstat(place).st_uid != os.getuid():
        os.close(place)
        raise _foreign(folder)
    os.fchmod(place, 0o700)
    return place


def _remove_other(name: str, outer: int) -> None:
    """Remove what is no folder."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=outer, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=outer)


def _enter(name: str, outer: int) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=outer)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)


def _foreign(folder: Path) -> Unavailable:
    return Unavailable(f"{folder} is not a folder of this user: remove it, then try again")


def empty(place: int) -> None:
    """Remove what is in the open folder ``place``, whatever it is; no link is followed."""
    with os.scandir(place) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.name, dir_fd=place)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=place)
