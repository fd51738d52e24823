"""Reads a dropped folder safely: names, sizes, JSON with limits, and no links out of the folder."""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from modelium.analysis.readers.laid import laid_files
from modelium.errors import DropRejected, is_passing

T = TypeVar("T")

MAX_FILES = 20_000
"""Limit for folders made to exhaust the analyzer; published models have a few hundred files."""
MAX_DEPTH = 12
CACHED_ITEMS = 200_000
"""Parsed tensors and index entries that a `Folder` caches: about 50 MB. Many files of a hostile
drop may each hold a header of the largest size."""
UNSIZED_ITEMS = 10_000
"""What a parsed file without a length counts as."""
MAX_JSON_BYTES = 8 * 1024**2
"""Configuration files have some kilobytes; tokenizers, which are larger, are never parsed."""
MAX_JSON_VALUES = 2_000_000
MAX_JSON_CONTAINERS = 400_000
"""A header of 100,000 tensors has 200,000; each takes Python a few hundred bytes."""


def unreadable(what: str, exc: OSError) -> DropRejected:
    """Return why the file ``what`` cannot be read; raises ``exc`` where it `is_passing`."""
    if is_passing(exc):
        raise exc
    return DropRejected(
        f"{what} cannot be read: {exc.__class__.__name__}. Check its permissions.",
        reason="unreadable",
    )


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file: name relative to the folder (POSIX), size in bytes."""

    name: str
    size: int

    @property
    def suffix(self) -> str:
        """Extension in lower case, with its dot."""
        return PurePosixPath(self.name).suffix.lower()


def shown(text: str, *, limit: int = 120) -> str:
    """Return untrusted ``text`` as one printable line for a message."""
    clean = "".join(c if c.isprintable() else "?" for c in text[:limit])
    return clean + ("…" if len(text) > limit else "")


def unsafe_name(name: str) -> bool:
    """Return whether a path component could mislead a terminal, a log or another parser."""
    return (
        name in {"", ".", ".."}
        or len(name) > 255
        or "\\" in name
        or "/" in name
        or any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in name)
    )


def inside(name: str) -> bool:
    """Return whether a path read from a file stays inside the folder that it is relative to."""
    parts = name.split("/")
    return len(parts) <= MAX_DEPTH and not any(unsafe_name(p) for p in parts)


def _scan(root: Path) -> Iterator[FileEntry]:
    pending: list[tuple[Path, str, int]] = [(root, "", 1)]
    seen = 0
    while pending:
        folder, prefix, depth = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_FILES:
                    raise DropRejected(
                        f"The folder has more than {MAX_FILES} files. Drop one model per folder.",
                        reason="too-many-files",
                    )
                name = prefix + entry.name
                if unsafe_name(entry.name):
                    raise DropRejected(
                        f"The name {shown(name)!r} contains control characters or a backslash, or "
                        "is not valid UTF-8. Rename the file.",
                        reason="unsafe-name",
                    )
                if entry.is_symlink():
                    yield _linked(root, entry, name)
                elif entry.is_dir(follow_symlinks=False):
                    if depth >= MAX_DEPTH:
                        raise DropRejected(
                            f"{shown(name)!r} is nested more than {MAX_DEPTH} folders deep. "
                            "Drop the folder that contains the model's files.",
                            reason="too-deep",
                        )
                    pending.append((Path(entry.path), name + "/", depth + 1))
                else:
                    info = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(info.st_mode):
                        raise DropRejected(
                            f"{shown(name)!r} is a device, socket or pipe. Drop plain files only.",
                            reason="special-file",
                        )
                    yield FileEntry(name, info.st_size)


def _linked(root: Path, entry: os.DirEntry[str], name: str) -> FileEntry:
    """Return the regular file that a link points to; raises `DropRejected` for any other link."""
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError) as exc:
        raise DropRejected(
            f"{shown(name)!r} is a broken link. Copy the file itself.",
            reason="broken-link",
        ) from exc
    info = target.stat()
    if not target.is_relative_to(root) or not stat.S_ISREG(info.st_mode):
        raise DropRejected(
            f"{shown(name)!r} does not link to a file inside the folder. "
            "Copy the files themselves (cp -L).",
            reason="link-outside",
        )
    return FileEntry(name, info.st_size)


class Folder:
    """The files of one model, listed once; a single file is a folder of one.

    What Modelium laid beside them for Triton is left out.
    Raises `DropRejected` for links out of the folder, special files and unsafe names.
    """

    def __init__(self, path: Path) -> None:
        """List ``path``; `OSError` (gone, unreadable) becomes `DropRejected`.

        Raises:
            OSError: `is_passing`.
        """
        try:
            resolved = path.resolve()
            if resolved.is_dir():
                self.root = resolved
                found = list(_scan(resolved))
                laid = laid_files(resolved, [f.name for f in found])
                found = [f for f in found if f.name not in laid]
            else:
                self.root = resolved.parent
                info = resolved.stat()
                if not stat.S_ISREG(info.st_mode):
                    raise DropRejected(
                        f"{shown(path.name)!r} is neither a folder nor a regular file.",
                        reason="special-file",
                    )
                if unsafe_name(resolved.name):
                    raise DropRejected(
                        f"The name {shown(resolved.name)!r} contains control characters or a "
                        "backslash, or is not valid UTF-8. Rename the file.",
                        reason="unsafe-name",
                    )
                found = [FileEntry(resolved.name, info.st_size)]
        except (OSError, RuntimeError) as exc:
            if isinstance(exc, OSError) and is_passing(exc):
                raise
            why = f"cannot be read: {exc.__class__.__name__}. Check that it exists and is readable."
            if not os.path.lexists(path):
                why = "does not exist."
            raise DropRejected(f"{shown(str(path))} {why}", reason="unreadable") from exc
        self.files = tuple(sorted(found, key=lambda f: f.name))
        self._parsed: dict[tuple[str, Callable[[Path, str], Any]], Any] = {}
        self._parsed_items = 0

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Name → size."""
        return {f.name: f.size for f in self.files}

    def __contains__(self, name: str) -> bool:
        return name in self.sizes

    def having(self, *suffixes: str) -> list[FileEntry]:
        """Return the files with one of ``suffixes`` (lower case, with dot)."""
        return [f for f in self.files if f.suffix in suffixes]

    def path(self, name: str) -> Path:
        """Return the absolute path of a listed file."""
        return self.root / name

    def read(self, name: str, *, limit: int) -> bytes:
        """Return at most ``limit`` bytes of a listed file."""
        return _read(self.path(name), shown(name), limit=limit)

    def json(self, name: str, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        """Return the JSON object in a listed file; raises `DropRejected` for anything else."""
        return json_file(self.path(name), shown(name), limit=limit)

    def parse(self, name: str, read: Callable[[Path, str], T]) -> T:
        """Return ``read(path, name for messages)`` of a listed file.

        Results are cached up to `CACHED_ITEMS`; beyond that, and after a refusal, the next call
        reads the file again.
        """
        key = (name, read)
        if key in self._parsed:
            return cast("T", self._parsed[key])
        parsed = read(self.path(name), shown(name))
        items = len(parsed) if isinstance(parsed, Sized) else UNSIZED_ITEMS
        if self._parsed_items + items <= CACHED_ITEMS:
            self._parsed_items += items
            self._parsed[key] = parsed
        return parsed


def _read(path: Path, what: str, *, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as exc:
        raise unreadable(repr(what), exc) from exc


def json_file(path: Path, what: str, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file of at most ``limit`` bytes; else raises `DropRejected`."""
    data = _read(path, what, limit=limit + 1)
    if len(data) > limit:
        raise DropRejected(
            f"{what!r} is larger than {limit} bytes, the limit for a configuration. "
            "Remove it or replace it with the model's own file.",
            reason="file-too-large",
        )
    return json_object(data, what)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DropRejected(
            "A configuration has a duplicate key, which parsers interpret differently. Remove one.",
            reason="duplicate-key",
        )
    return found


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object; its number of entries is checked before it is parsed.

    Only text that is not JSON is ``bad-json``: such a file may still be incomplete.
    Duplicate keys are refused, as two parsers could see two different models.
    """
    containers = data.count(b"{") + data.count(b"[")
    if containers > MAX_JSON_CONTAINERS or data.count(b",") > MAX_JSON_VALUES:
        raise DropRejected(
            f"{what} has too many entries. Replace it with the model's own.",
            reason="absurd-counts",
        )
    try:
        found = json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as exc:
        raise DropRejected(
            f"{what} is not valid JSON ({shown(str(exc))}). Copy it again.", reason="bad-json"
        ) from exc
    if not isinstance(found, dict):
        raise DropRejected(
            f"{what} is not a JSON object. Replace it with the model's own.",
            reason="no-json-object",
        )
    return found
