"""Moving drops between folders so that neither a crash nor a full disk loses or doubles one.

Within one file system a move is a rename. Else the copy is whole and on disk, under a name that
nobody looks at, before it gets its own name, and the source is renamed before it is deleted. So
what has a name of its own is whole.
"""

from __future__ import annotations

import logging
import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

from modelium.analysis import refuse_link
from modelium.analysis.readers.tree import is_folder, walk
from modelium.errors import DropRejected
from modelium.intake.copying import copy_tree
from modelium.intake.likeness import Likeness, Replaced, likeness, rename_alike
from modelium.intake.removal import remove_quietly

logger = logging.getLogger(__name__)

COPYING = ".modelium-copying-"
"""How the names of copies begin that are not whole yet."""

TAKEN = ".modelium-taken-"
"""How the names of folders begin that are being deleted: a source whose copy is whole, a staging
folder that is no longer needed."""

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def ignore(_moves: bool) -> None:
    """Note nothing."""


def move(
    source: Path,
    target: Path,
    *,
    note: Callable[[bool], None] = ignore,
    like: Likeness | None = None,
) -> bool:
    """Move ``source`` to ``target``; return whether it is gone from its place.

    It stays, whole, where another user's folders do not let us delete it. So does what has
    replaced it meanwhile: ``target`` is what was read then.

    Args:
        source: a file or folder.
        target: its new path, which is free.
        note: called whenever it changes which of both is the one to keep after a crash: the
            source (``False``) or the target (``True``, as before the call).
        like: what ``source`` was when it was read; where it is not any more, it stays, and there
            is nothing at ``target``.

    Raises:
        DropRejected: it lies on another file system, and cannot be copied: see `copy`.
    """
    try:
        rename_alike(source, target, like=like)
    except Replaced:
        note(False)
        return False
    except OSError:
        note(False)
        like = likeness(source) if like is None else like
        copy(source, target)
        if is_deletable(source):
            note(True)
            try:
                take_away(source, like=like)
            except Replaced:
                note(False)
                return False
            except OSError:
                note(False)
            else:
                return True
        logger.warning(
            "%s was copied: it belongs to another user, and may not be deleted; delete it there",
            source,
        )
        return False
    return True


def copy(source: Path, target: Path, *, parent: int | None = None) -> None:
    """Copy ``source`` to ``target``, synced to disk; a failure leaves nothing there.

    The copy is this user's own: nobody else may write to its files, not even whoever still has
    those of ``source`` open. ``parent``: the open folder that holds ``source``; default: that of
    its path.

    Raises:
        DropRejected: it is nested too deep, has too many files, or one that is no plain file or
            that this user may not read.
    """
    fresh = target.with_name(f"{COPYING}{uuid.uuid4().hex[:8]}")
    try:
        copy_tree(source, fresh, parent=parent)
        sync_tree(fresh)
        os.rename(fresh, target)
        sync(target.parent)
    except (OSError, DropRejected):
        remove_quietly(fresh)
        raise


def copy_in(source: Path, target: Path, *, parent: int | None = None) -> None:
    """Copy a folder to ``target``, or a file into it; ``parent`` and errors: see `copy`."""
    name = str(source) if parent is None else source.name
    if stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        fresh = target.with_name(f"{COPYING}{uuid.uuid4().hex[:8]}")
        fresh.mkdir()
        copy(source, fresh / source.name, parent=parent)
        os.rename(fresh, target)
    else:
        copy(source, target, parent=parent)
        refuse_link(target)  # it may have become one before it was copied


def is_own(path: Path, *, linked: bool = False) -> bool:
    """Whether nobody but this user can change the file or folder ``path`` and what is in it.

    ``linked``: files may have other names, by which others might change what is in them.
    """
    me = os.geteuid()
    found = [path.lstat()]
    if stat.S_ISDIR(found[0].st_mode):
        found += (entry.stat(follow_symlinks=False) for entry in walk(path))
    return all(
        stat.S_ISLNK(info.st_mode)
        or (
            info.st_uid == me
            and not info.st_mode & WRITABLE_BY_OTHERS
            and (linked or stat.S_ISDIR(info.st_mode) or info.st_nlink == 1)
        )
        for info in found
    )


def is_deletable(path: Path) -> bool:
    """Whether this user may delete all that lies in ``path``."""
    if path.is_symlink() or not path.is_dir():
        return True
    may = os.W_OK | os.X_OK
    folders = [str(path), *(entry.path for entry in walk(path) if is_folder(entry))]
    return all(os.access(folder, may, effective_ids=True) for folder in folders)


def clear(folder: Path) -> None:
    """Delete what a crash has left of moves into and out of ``folder``."""
    for entry in list(folder.iterdir()):
        if entry.name.startswith((COPYING, TAKEN)):
            remove_quietly(entry)


def sync(path: Path) -> None:
    """Have the disk keep the file or folder ``path``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Have the disk keep ``path`` and all that lies in it."""
    if path.is_symlink():
        return
    for entry in walk(path):
        if entry.is_file(follow_symlinks=False) or is_folder(entry):
            sync(Path(entry.path))
    sync(path)


def take_away(path: Path, *, like: Likeness | None = None) -> None:
    """Delete ``path`` so that a crash leaves all of it, or nothing that looks like it.

    Raises:
        Replaced: it is not ``like`` any more; it is whole.
        OSError: it cannot be renamed; it is whole.
    """
    aside = path.with_name(f"{TAKEN}{uuid.uuid4().hex[:8]}")
    rename_alike(path, aside, like=like)
    remove_quietly(aside)
