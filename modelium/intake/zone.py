"""Opens what lies in the drop zone, where droppers may swap any folder for a link at any time."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelium.analysis.readers.folder import shown
from modelium.errors import DropRejected

_WAY = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)


def below(path: Path, zone: Path) -> bool:
    """Whether ``path`` leads into ``zone`` by names alone."""
    parts = path.relative_to(zone).parts if path.is_relative_to(zone) else ()
    return bool(parts) and ".." not in parts


@contextmanager
def holding(path: Path, zone: Path) -> Iterator[int | None]:
    """Yield the open folder of ``path``, found without links; ``None``: it is not `below` ``zone``.

    Raises:
        DropRejected: ``path`` or a folder above it in ``zone`` is a link.
    """
    if not below(path, zone):
        yield None
        return
    *folders, name = path.relative_to(zone).parts
    at = os.open(zone, os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
    try:
        for folder in folders:
            inner = _entered(folder, at)
            os.close(at)
            at = inner
        if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise _linked(name)
        yield at
    finally:
        os.close(at)


def _entered(name: str, parent: int) -> int:
    try:
        return os.open(name, _WAY, dir_fd=parent)
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):
            raise _linked(name) from exc
        raise


def _linked(name: str) -> DropRejected:
    return DropRejected(
        f"{shown(name)!r} in the drop zone is a link. Drop the folder itself.",
        reason="link-outside",
    )
