"""Whether what lies at a path is still what was read there.

A drop may be replaced while it is copied or unpacked, which takes minutes. Only what was read may
be taken away then: the newer one is a drop of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path
from typing import TypeAlias

from modelium.analysis.readers.tree import walk
from modelium.intake.removal import remove_quietly

logger = logging.getLogger(__name__)

Likeness: TypeAlias = frozenset[tuple[str, int, int, int, int]]
"""Of each file and folder, which one it is, its size and its time. A rename changes none of it."""


class Replaced(OSError):
    """What lies at a path is not what was read there."""


def likeness(path: Path) -> Likeness:
    """Return the likeness of the file or folder at ``path``; that of nothing is empty."""
    try:
        found = [("", path.lstat())]
    except OSError:
        return frozenset()
    for entry in walk(path) if stat.S_ISDIR(found[0][1].st_mode) else ():
        try:
            found.append((entry.name, entry.stat(follow_symlinks=False)))
        except OSError:
            continue
    return frozenset(
        (name, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns) for name, info in found
    )


def rename_alike(source: Path, target: Path, *, like: Likeness | None) -> None:
    """Rename ``source`` to ``target`` where it is still ``like``; ``None``: whatever it is.

    Raises:
        Replaced: it is not; what is at ``source`` stays there, and is logged.
        OSError: it cannot be renamed.
    """
    # The look before keeps a newer drop in its place while it is being written. The one after is
    # for what came between both.
    if like is None or likeness(source) == like:
        os.rename(source, target)
        if like is None or likeness(target) == like:
            return
        if os.path.lexists(source):  # replaced once more
            remove_quietly(target)
        else:
            os.rename(target, source)
    logger.warning(
        "%s was replaced or changed while it was taken in; what is there now stays, and is taken "
        "in next",
        source,
    )
    raise Replaced(errno.ESTALE, "it was replaced while it was taken in", str(source))
