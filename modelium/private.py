"""Files that are this user's alone."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Bits of a mode that are not the owner's."""

SECRET_BYTES = 24


def folder(path: Path) -> None:
    """Make ``path`` where it is missing, and take other users' access to it away."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    tighten(path)


def tighten(path: Path) -> None:
    """Take other users' access to ``path`` away, where it is ours; a link is left as it is."""
    found = path.lstat()
    if found.st_uid == os.geteuid() and found.st_mode & OTHERS and not path.is_symlink():
        path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)


def opener(path: str, flags: int) -> int:
    """Open ``path`` for `open`; where it is made, others cannot read it."""
    return os.open(path, flags, 0o600)


def write(file: Path, text: str) -> None:
    """Write ``text``; at no moment others can read it, or see half of it."""
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())  # what is empty after a crash would be lost
    new.replace(file)


def credentials(file: Path, *, user: str) -> str:
    """Return the ``USER:PASSWORD`` in ``file``, which is written with a new one where missing."""
    folder(file.parent)
    if not file.exists() or not (found := file.read_text().strip()):
        found = f"{user}:{secrets.token_urlsafe(SECRET_BYTES)}"
        write(file, f"{found}\n")
    tighten(file)
    return found


def doors(path: Path) -> Iterator[str]:
    """Yield a sentence for each way in that other users have to ``path``; empty: they have none."""
    found = path.stat()
    if found.st_mode & OTHERS:
        yield f"{path} is open to other users ({stat.S_IMODE(found.st_mode):o}): chmod go= {path}"
    for parent in path.resolve().parents:
        info = parent.stat()
        writable = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if writable and not info.st_mode & stat.S_ISVTX:
            yield (
                f"other users can replace {path}, since they may write to {parent} "
                f"({stat.S_IMODE(info.st_mode):o}): chmod go-w {parent}"
            )
        elif info.st_uid not in (0, os.geteuid()):
            yield f"the owner of {parent} (user id {info.st_uid}) can replace {path}"
