"""The files of drops and models: where each lies, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.invariants.database import Tables

MARKER = ".modelium-laid.json"
"""Names what was laid into a published folder for Triton."""

NOTES = frozenset({"origin.json", "reason.json", "removed.json"})
"""Beside drops."""

FRAGMENTS = (".modelium-copying-", ".modelium-taken-", ".purge-", ".again-")
"""How the names of what is being moved begin."""

NO_MODELS = frozenset({"README.md", "lost+found"})


def digest(path: Path, *, ignored: frozenset[str] = frozenset()) -> str:
    """Return the digest of a model's folder, or of a file as a folder of one.

    ``ignored``: names of files that are left out.
    """
    total = hashlib.sha256()
    root = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for name in sorted({f.relative_to(root).as_posix() for f in files} - _laid(root) - ignored):
        content, encoded = (root / name).read_bytes(), name.encode()
        total.update(len(encoded).to_bytes(4, "big") + encoded + len(content).to_bytes(8, "big"))
        total.update(content)
    return f"sha256:{total.hexdigest()}"


def _laid(root: Path) -> set[str]:
    if not (root / MARKER).is_file():
        return set()
    note = json.loads((root / MARKER).read_text())
    inner = (root / note["folder"]).rglob("*") if note["folder"] else ()
    config = {"config.pbtxt"} if note["config"] else set()
    return {MARKER} | config | {file.relative_to(root).as_posix() for file in inner}


def changed(tables: Tables, *, ignored: frozenset[str]) -> Iterator[str]:
    """The files of each kept version are those of its digest, at a path of its own."""
    seen: dict[str, str] = {}
    for version in tables.versions:
        if version["removed_at"] is not None:
            continue
        name, path = f"{version['model']} version {version['version']}", Path(version["path"])
        if version["path"] in seen:
            yield f"{name} and {seen[version['path']]} lie at one path, {path}"
        seen[version["path"]] = name
        if not path.is_dir():
            yield f"the folder of {name} is missing: {path}"
        elif (found := digest(path, ignored=ignored)) != version["digest"]:
            yield f"the files of {name} are {found}, registered as {version['digest']}"


def unregistered(tables: Tables, repository: Path) -> Iterator[str]:
    """Every folder of the repository is a version's."""
    known = {version["path"] for version in tables.versions}
    for entry in _entries(repository):
        if str(entry) not in known and entry.name not in NO_MODELS:
            yield f"{entry} is in the repository and not registered"


def fragments(repository: Path, *around: Path) -> Iterator[str]:
    """Nothing is left of moves that have ended or were cut short."""
    staging = repository / ".staging"
    yield from (f"{entry} is left of an ingest" for entry in _all(staging))
    for folder in (repository, repository / ".trash", *around):
        for entry in _all(folder):
            if entry.name.startswith(FRAGMENTS):
                yield f"{entry} is left of a move"


def misplaced(
    tables: Tables, drops: Iterable[tuple[str, frozenset[str]]], *, folders: tuple[Path, Path]
) -> Iterator[str]:
    """Each drop is in exactly one place: registered, in the drop zone, or rejected.

    ``drops``: name and the digests that it may have (an archive's own, and its content's), each
    drop of another content. ``folders``: the drop zone, and the rejected drops.
    """
    incoming, rejected = folders
    places: dict[str, list[str]] = {}
    for version in tables.versions:
        gone = version["removed_at"] is not None
        place = f"{'removed' if gone else 'registered'} as {version['model']}@{version['version']}"
        places.setdefault(version["digest"], []).append(place)
    for entry in _entries(incoming):
        places.setdefault(digest(entry), []).append(f"incoming as {entry.name}")
    for refused in _all(rejected):
        for entry in _all(refused) if refused.is_dir() else ():
            if entry.name not in NOTES:
                places.setdefault(digest(entry), []).append(f"rejected as {refused.name}")
    for name, digests in drops:
        found = [place for each in digests for place in places.get(each, ())]
        if not found:
            yield f"the drop {name} is lost"
        elif len(found) > 1:
            yield f"the drop {name} is in {len(found)} places: {', '.join(found)}"


def _entries(folder: Path) -> list[Path]:
    return [entry for entry in _all(folder) if not entry.name.startswith(".")]


def _all(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder)) if folder.is_dir() else []
