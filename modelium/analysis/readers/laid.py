"""What Modelium laid into a published model's folder so that Triton serves it in place.

Beside the model's own files lie a ``config.pbtxt`` and a version folder that repeats some of
those files by links. A marker names them, and `Folder` leaves them out: digest and analysis are
those of the drop. The marker is not simply believed, since a drop may bring one of its own: a file
counts as laid only where it equals the file that it repeats, so that nothing can be hidden.
`unlay` removes what a drop brings before anything else looks at it.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from modelium.analysis.readers.tree import is_folder, walk

MARKER = ".modelium-laid.json"
CONFIG = "config.pbtxt"
CACHE = "__pycache__"
VERSION = re.compile(r"[1-9][0-9]{0,17}")
MAX_MARKER_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Laid:
    """The content of a marker. It is written first, so that a crash leaves nothing unmarked."""

    version: int
    """The model's version in Modelium's store."""
    config: bool = False
    """Whether the folder's ``config.pbtxt`` is Modelium's."""
    folder: str = ""
    """Modelium's version folder; empty: the model came with its own."""
    source: str = ""
    """The folder whose files it repeats, relative to the model's; empty: the model's itself."""
    caches: bool = False
    """Whether ``__pycache__`` folders in it are Triton's, which writes them beside Python code.
    They are removed in the end and not left out before: hidden bytecode could be anything."""

    def write(self, root: Path) -> None:
        """Write the marker of the folder ``root``, synced to disk."""
        # In place: one that a crash cut short says nothing, and nothing was laid yet. It has to be
        # a new file: whoever dropped the folder may still write to it, and put a link there.
        with (root / MARKER).open("x") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())


def read_marker(root: Path) -> Laid | None:
    """Return what the marker in ``root`` says; None without a valid one."""
    path = root / MARKER
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_MARKER_BYTES))
        laid = Laid(
            version=int(found["version"]),
            config=found["config"] is True,
            folder=str(found["folder"]),
            source=str(found["source"]),
            caches=found.get("caches") is True,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if laid.folder and not VERSION.fullmatch(laid.folder):
        return None
    parts = laid.source.split("/")
    if laid.source and (".." in parts or "" in parts or parts[0] == laid.folder):
        return None
    return laid


def laid_files(root: Path, names: Iterable[str]) -> frozenset[str]:
    """Return those of the files ``names`` (relative to ``root``) that Modelium laid."""
    laid = read_marker(root)
    if laid is None:
        return frozenset({MARKER})
    found = {MARKER} | ({CONFIG} if laid.config else set())
    prefix = f"{laid.folder}/"
    for name in names:
        if name.startswith(prefix):
            original = root / laid.source / name.removeprefix(prefix)
            if _equal(root / name, original):
                found.add(name)
    return frozenset(found)


def unlay(root: Path) -> None:
    """Remove what Modelium laid into ``root``, its marker last; the model's own files stay.

    No link is followed, ``root`` itself included: nothing was checked yet.
    """
    if root.is_symlink():
        return
    laid = read_marker(root)
    if laid is None:
        _remove(root / MARKER)
        return
    folder = root / laid.folder
    if laid.folder and not folder.is_symlink():
        found = list(walk(folder))
        folders = [entry.path for entry in found if is_folder(entry)]
        inner = [
            Path(entry.path).relative_to(root).as_posix() for entry in found if not is_folder(entry)
        ]
        for name in laid_files(root, inner) - {MARKER, CONFIG}:
            _remove(root / name)
        for at in (*reversed(folders), str(folder)):  # what is inside comes first
            with suppress(OSError):  # it holds a file that is not ours
                os.rmdir(at)
    if laid.caches:
        _remove_caches(root)
    if laid.config:
        _remove(root / CONFIG)
    _remove(root / MARKER)


def _remove_caches(root: Path) -> None:
    """Remove the ``__pycache__`` folders below the folders of ``root``, and not through links."""
    for entry in list(walk(root)):
        if entry.name == CACHE and Path(entry.path).parent != root:
            # A link or file stays, and Python itself nests nothing in it.
            with suppress(OSError, RecursionError):
                shutil.rmtree(entry.path)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)


def _equal(one: Path, other: Path) -> bool:
    """Whether both are one file, or regular files of equal content."""
    try:
        one_file = os.path.samefile(one, other) and one.is_file()
        # A backup that was put back holds copies instead of links.
        return one_file or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
