"""Moving drops between folders so that neither a crash nor a full disk loses or doubles one.

Within one file system a move is a rename. Else the copy is whole and on disk, under a name that
nobody looks at, before it gets its own name, and the source is renamed before it is deleted.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

COPYING = ".modelium-copying-"
"""How the names of copies begin that are not whole yet."""

TAKEN = ".modelium-taken-"
"""How the names of sources begin whose copy is whole."""


def ignore(_moves: bool) -> None:
    """Note nothing."""


def move(source: Path, target: Path, *, note: Callable[[bool], None] = ignore) -> bool:
    """Move ``source`` to ``target``; return whether it is gone from its place.

    It stays, whole, where another user's folders do not let us delete it.

    Args:
        source: a file or folder.
        target: its new path, which is free.
        note: called whenever it changes which of both is the one to keep after a crash: the
            source (``False``) or the target (``True``, as before the call).
    """
    try:
        os.rename(source, target)
    except OSError:
        note(False)
        copy(source, target)
        if is_deletable(source):
            note(True)
            if _take_away(source):
                return True
            note(False)
        logger.warning(
            "%s was copied: it belongs to another user, and may not be deleted; delete it there",
            source,
        )
        return False
    return True


def copy(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target``, synced to disk; a failure leaves nothing there."""
    fresh = target.with_name(f"{COPYING}{uuid.uuid4().hex[:8]}")
    try:
        if source.is_dir():
            shutil.copytree(source, fresh, symlinks=True)
            for at, _folders, _files in os.walk(fresh):
                os.chmod(at, os.stat(at).st_mode | 0o700)  # else the copy could not be moved
        else:
            shutil.copy2(source, fresh, follow_symlinks=False)
        sync_tree(fresh)
        os.rename(fresh, target)
    except shutil.Error as exc:  # it lists all files; one says enough
        _delete(fresh)
        raise OSError(str(exc.args[0][0][-1])) from exc
    except OSError:
        _delete(fresh)
        raise


def is_deletable(path: Path) -> bool:
    """Whether this user may delete all that lies in ``path``."""
    if path.is_symlink() or not path.is_dir():
        return True
    may = os.W_OK | os.X_OK
    folders = [path, *(Path(at) / name for at, names, _files in os.walk(path) for name in names)]
    return all(
        folder.is_symlink() or os.access(folder, may, effective_ids=True) for folder in folders
    )


def clear(folder: Path) -> None:
    """Delete what a crash has left of moves into and out of ``folder``."""
    for entry in folder.iterdir():
        if entry.name.startswith((COPYING, TAKEN)):
            _delete(entry)


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
    if not path.is_dir():
        sync(path)
    for at, _folders, files in os.walk(path):
        for file in files:
            if not (Path(at) / file).is_symlink():
                sync(Path(at) / file)
        sync(Path(at))


def _take_away(source: Path) -> bool:
    aside = source.with_name(f"{TAKEN}{uuid.uuid4().hex[:8]}")
    try:
        os.rename(source, aside)
    except OSError:
        return False
    _delete(aside)
    return True


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
