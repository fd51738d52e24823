"""Copies folders whose owner may change them meanwhile.

Source and copy are walked by descriptors, and no link is followed: a folder that becomes a link
after the look at it would lead to files that its owner may not read, or have them written.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from modelium.analysis.readers.folder import MAX_DEPTH, MAX_FILES, shown
from modelium.errors import DropRejected

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_CHUNK = 8 * 1024**2
_KERNEL_CHUNK = 16 * _CHUNK


def copy_tree(source: Path, target: Path, *, parent: int | None = None) -> None:
    """Copy the file, link or folder ``source`` to the new path ``target``.

    ``parent``: the open folder that holds ``source``; default: that of its path.

    Raises:
        DropRejected: see `modelium.intake.moving.copy`.
    """
    name = str(source) if parent is None else source.name
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        _copy_entry(name, str(target), reading=parent, writing=None)
        return
    copied = _Folders(shown(source.name))
    copied.copy(name, str(target), reading=parent, writing=None, depth=1)


class _Folders:
    """The copy of one folder. Each open folder has a descriptor; `MAX_DEPTH` bounds them."""

    def __init__(self, whole: str) -> None:
        self._whole = whole
        self._seen = 0

    def copy(
        self, source: str, target: str, *, reading: int | None, writing: int | None, depth: int
    ) -> None:
        """Copy the folder ``source`` in ``reading`` to ``target`` in ``writing``."""
        opened = _folder(source, reading)
        try:
            os.mkdir(target, dir_fd=writing)
            made = os.open(target, _FOLDER, dir_fd=writing)
            try:
                self._fill(opened, made, depth)
            finally:
                os.close(made)
        finally:
            os.close(opened)

    def _fill(self, opened: int, made: int, depth: int) -> None:
        inner = []
        for name, is_folder in self._listed(opened):
            if not is_folder:
                _copy_entry(name, name, reading=opened, writing=made)
            elif depth < MAX_DEPTH:
                inner.append(name)
            else:
                raise DropRejected(
                    f"{self._whole!r} is nested more than {MAX_DEPTH} folders deep. Drop the "
                    "folder that contains the model's files.",
                    reason="too-deep",
                )
        for name in inner:
            self.copy(name, name, reading=opened, writing=made, depth=depth + 1)

    def _listed(self, opened: int) -> list[tuple[str, bool]]:
        """Return the names in the folder ``opened``, and whether each is a folder."""
        found = []
        with os.scandir(opened) as entries:
            for entry in entries:
                self._seen += 1
                if self._seen > MAX_FILES:
                    raise DropRejected(
                        f"{self._whole!r} has more than {MAX_FILES} files. Drop one model per "
                        "folder.",
                        reason="too-many-files",
                    )
                found.append((entry.name, entry.is_dir(follow_symlinks=False)))
        return sorted(found)


def _folder(name: str, parent: int | None) -> int:
    """Open the folder ``name`` of ``parent``."""
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError as exc:
        raise _unreadable(name) from exc
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):  # something else by now
            raise _special(name) from exc
        raise


def _copy_entry(source: str, target: str, *, reading: int | None, writing: int | None) -> None:
    """Copy one file or link; of a file, contents, times and the owner's permissions."""
    try:
        if stat.S_ISLNK(os.stat(source, dir_fd=reading, follow_symlinks=False).st_mode):
            os.symlink(os.readlink(source, dir_fd=reading), target, dir_fd=writing)
            return
        # Not waiting: it may be a pipe by now.
        opened = os.open(source, os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=reading)
    except PermissionError as exc:
        raise _unreadable(source) from exc
    except OSError as exc:
        if exc.errno in (errno.ENXIO, errno.ELOOP):  # a socket, or a link by now
            raise _special(source) from exc
        raise
    with os.fdopen(opened, "rb") as file:
        info = os.fstat(opened)
        if not stat.S_ISREG(info.st_mode):
            raise _special(source)
        mode = stat.S_IMODE(info.st_mode) & 0o755 | stat.S_IRUSR | stat.S_IWUSR
        written = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=writing)
        with os.fdopen(written, "wb") as out:
            # The kernel shares the blocks where the file system can.
            with suppress(AttributeError, OSError):  # another file system, or no Linux
                while os.copy_file_range(opened, written, _KERNEL_CHUNK):
                    pass
            shutil.copyfileobj(file, out, _CHUNK)  # what is left
            out.flush()
            os.fchmod(written, mode)
            os.utime(written, ns=(info.st_atime_ns, info.st_mtime_ns))


def _unreadable(name: str) -> DropRejected:
    return DropRejected(
        f"{shown(os.path.basename(name))!r} cannot be read. Let the user that Modelium runs as "
        "read it.",
        reason="unreadable",
    )


def _special(name: str) -> DropRejected:
    return DropRejected(
        f"{shown(os.path.basename(name))!r} is a device, socket or pipe. Drop plain files only.",
        reason="special-file",
    )
