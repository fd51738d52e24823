"""Deletes folders of any depth. `shutil.rmtree` recurses, and ends at Python's limit."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove(path: Path) -> None:
    """Delete the file, link or folder ``path``; nothing there is no error.

    Raises:
        OSError: something in it cannot be deleted.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    _open_up(str(path), None)
    root = os.open(path, _FOLDER)
    try:
        while folders := _unlink_files(root):
            for folder in folders:
                _dissolve(root, folder)
    finally:
        os.close(root)
    os.rmdir(path)


def remove_quietly(path: Path) -> None:
    """`remove` as far as it is possible."""
    with suppress(OSError):
        remove(path)


def _unlink_files(folder: int) -> list[str]:
    """Delete all files in the open ``folder``; return the names of its folders."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in found if is_folder]


def _dissolve(root: int, name: str) -> None:
    """Delete the folder ``name`` of ``root``; its own folders move up into ``root``.

    So no path is ever longer than two names, and one folder is open beside ``root``.
    """
    _open_up(name, root)
    folder = os.open(name, _FOLDER, dir_fd=root)
    try:
        for inner in _unlink_files(folder):
            _open_up(inner, folder)  # a folder that moves has to be writable itself
            os.rename(inner, uuid.uuid4().hex, src_dir_fd=folder, dst_dir_fd=root)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=root)


def _open_up(name: str, parent: int | None) -> None:
    """Let this user change the folder ``name`` of ``parent``, where it is one.

    Its owner may put a link in its place meanwhile, and ``chmod`` would follow that.
    """
    with suppress(OSError):
        # Unlike the folder, its path may be opened without a permission to read it.
        opened = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{opened}", 0o700)
        finally:
            os.close(opened)
