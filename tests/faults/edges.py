"""The edges where points are: the store's commits and file operations of the intake."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from tests.faults.points import Points

STORE = f"{os.sep}modelium{os.sep}store{os.sep}"
OURS = f"{os.sep}modelium{os.sep}"


def watch_commits(engine: Engine, points: Points) -> None:
    """Have each commit of ``engine`` that writes something be a point, before it is done."""
    commit = engine.dialect.do_commit

    def do_commit(connection: Any) -> None:
        bare = getattr(connection, "dbapi_connection", connection)
        written = bare.total_changes
        if written != seen.get(id(bare), 0):
            points.at("commit", _method())
            seen[id(bare)] = written
        elif points.dead:
            points.at("commit", "read")
        commit(connection)

    seen: dict[int, int] = {}
    engine.dialect.do_commit = do_commit  # type: ignore[method-assign]

    @sa.event.listens_for(engine, "connect")
    def _fast(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")  # no test pulls the plug of the machine


def _method() -> str:
    """Return the store's method that is at its commit."""
    frame, name = sys._getframe(2), "?"
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if STORE in file and not file.endswith("async_store.py"):
            name = frame.f_code.co_qualname
        elif name != "?" and OURS in file:
            break
        frame = frame.f_back
    return name


def _function() -> str:
    """Return the innermost function of Modelium's on the stack."""
    frame = sys._getframe(2)
    while frame.f_back is not None and OURS not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_qualname


CHANGES = ("rename", "replace", "link", "mkdir", "unlink", "rmdir")
"""Functions of `os` that change folders."""


class Files:
    """The file operations below one folder; each change is a point, before it is done."""

    def __init__(self, folder: Path, points: Points, *, apart: bool) -> None:
        """See `watched_files`."""
        self._root = str(folder) + os.sep
        self._points = points
        self._apart = apart
        self._copyfile, self._open, self._os_open = shutil.copyfile, io.open, os.open

    def changing(self, name: str) -> Callable[..., Any]:
        """Return the function ``name`` of `os` with a point before it."""
        function = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if any(map(self._is_ours, args[:2])) or kwargs.get("dir_fd") is not None:
                self._points.at("file", f"{name} in {_function()}")
            if name == "rename" and self._apart and self._place(args[0]) != self._place(args[1]):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            return function(*args, **kwargs)

        return call

    def fsync(self, descriptor: int) -> None:
        if self._is_ours(os.readlink(f"/proc/self/fd/{descriptor}")):
            self._points.at("file", f"fsync in {_function()}")

    def copyfile(self, source: Any, target: Any, **kwargs: Any) -> Any:
        try:
            self._points.at("file", f"copy in {_function()}")
        except BaseException:  # it ends half way
            half = Path(source).stat().st_size // 2
            Path(target).write_bytes(Path(source).read_bytes()[:half])
            raise
        return self._copyfile(source, target, **kwargs)

    def open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self._is_ours(file) and set(mode) & set("wax+"):
            self._points.at("file", f"open in {_function()}")
        return self._open(file, mode, *args, **kwargs)

    def os_open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if self._is_ours(path) and flags & (os.O_WRONLY | os.O_CREAT):
            self._points.at("file", f"open in {_function()}")
        return self._os_open(path, flags, *args, **kwargs)

    def _is_ours(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self._root)

    def _place(self, path: Any) -> str:
        return os.path.relpath(path, self._root).split(os.sep)[0]


@contextmanager
def watched_files(folder: Path, points: Points, *, apart: bool) -> Iterator[None]:
    """Have each change of files below ``folder`` be a point.

    ``apart``: renames between folders of ``folder`` fail, as between file systems.
    """
    files = Files(folder, points, apart=apart)
    changes = {name: files.changing(name) for name in CHANGES}
    with (
        mock.patch.multiple(os, fsync=files.fsync, open=files.os_open, **changes),
        mock.patch.object(shutil, "copyfile", files.copyfile),
        mock.patch.object(io, "open", files.open),
    ):
        yield
