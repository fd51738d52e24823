"""Whether a drop is complete: index, headers and sizes agree. Reads headers only."""

from __future__ import annotations

import re
from pathlib import Path

from modelium.analysis.readers.folder import Folder
from modelium.analysis.readers.gguf_header import read_gguf
from modelium.analysis.readers.onnx_graph import read_graph
from modelium.analysis.readers.safetensors_header import read_header
from modelium.analysis.readers.shard_index import SUFFIX as INDEX_SUFFIX
from modelium.analysis.readers.shard_index import read_index
from modelium.errors import DropRejected

PARTIAL_SUFFIXES = (
    ".part", ".partial", ".incomplete", ".tmp", ".temp", ".crdownload", ".download", ".aria2",
    ".filepart", ".swp", "~", ".!ut", ".opdownload",
)  # fmt: skip
"""Marks that browsers, rsync, aria2, editors and hub clients put on unfinished files."""
_RSYNC = re.compile(r"^\..+\.[A-Za-z0-9]{6}$")
"""rsync's temporary name: ``.model.safetensors.Xy12Ab``."""
_NUMBERED = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)$")

MAX_SHARDS = 10_000


def is_complete(path: Path) -> str | None:
    """Return ``None`` for a complete drop, else what is missing, in one line.

    Never raises. A drop that is unsafe or of no known format counts as complete, so that the
    watcher hands it on and ingest refuses it.
    """
    if path.is_symlink():
        return None
    try:
        folder = Folder(path)
    except DropRejected as exc:
        return None if exc.reason != "unreadable" else str(exc)
    except OSError as exc:
        return f"it cannot be read now: {exc.strerror}"
    return find_missing(folder)


def find_missing(folder: Folder) -> str | None:
    """`is_complete` for a folder that is already listed."""
    if not folder.files:
        return "the folder is empty"
    if len(folder.files) == 1 and folder.files[0].size == 0:
        return f"{folder.files[0].name} is empty"
    try:
        return _partial(folder) or _missing_shards(folder) or _short_files(folder)
    except OSError as exc:
        return f"it changed while it was read ({exc.__class__.__name__})"


def _partial(folder: Folder) -> str | None:
    for entry in folder.files:
        name = entry.name.rsplit("/", 1)[-1]
        # A hub client's cache keeps markers of finished downloads, which are not model files.
        if ".cache/" in f"/{entry.name}" and not name.endswith(".incomplete"):
            continue
        if name.lower().endswith(PARTIAL_SUFFIXES) or _RSYNC.match(name):
            return f"{entry.name} is a partial download"
    return None


def _missing_shards(folder: Folder) -> str | None:
    series: set[tuple[str, int, str]] = set()
    for entry in folder.files:
        if entry.name.endswith(INDEX_SUFFIX):
            prefix = entry.name.rpartition("/")[0]
            try:
                shards = folder.parse(entry.name, read_index)
            except DropRejected as exc:
                if exc.reason == "bad-json":
                    return str(exc)
                continue
            for shard in sorted(shards):
                name = f"{prefix}/{shard}" if prefix else shard
                if name not in folder:
                    return f"{name} of {entry.name} is missing"
        if numbered := _NUMBERED.match(entry.name):
            series.add((numbered["stem"], int(numbered["count"]), numbered["suffix"]))
    for stem, count, suffix in sorted(series):
        if count > MAX_SHARDS:
            continue
        for number in range(1, count + 1):
            name = f"{stem}-{number:05}-of-{count:05}{suffix}"
            if name not in folder:
                return f"{name} is missing"
    return None


def _short_files(folder: Folder) -> str | None:
    for entry in folder.files:
        try:
            if entry.suffix == ".safetensors":
                folder.parse(entry.name, read_header)
            elif entry.suffix == ".gguf":
                folder.parse(entry.name, read_gguf)
            elif entry.suffix == ".onnx":
                if short := _short_external(folder, entry.name):
                    return short
            elif entry.name.endswith("config.json"):
                folder.json(entry.name)
        except DropRejected as exc:
            if exc.reason in {"truncated", "bad-json", "unreadable"}:
                return str(exc)
    return None


def _short_external(folder: Folder, name: str) -> str | None:
    graph = folder.parse(name, read_graph)
    prefix = name.rpartition("/")[0]
    for span in graph.external:
        location = f"{prefix}/{span.location}" if prefix else span.location
        have, need = folder.sizes.get(location), span.offset + span.length
        if have is None:
            return f"{location} of {name} is missing"
        if have < need:
            return f"{location} of {name} has {have} of {need} bytes"
    return None
