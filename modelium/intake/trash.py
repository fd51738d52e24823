"""The trash: files of removed models, kept until their retention ends. Every call blocks.

Each entry is a folder with the model's files, under the model's name, and `NOTE`. Moving that
folder into the drop zone brings the model back.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelium.errors import InputError
from modelium.models import Version

logger = logging.getLogger(__name__)

NOTE = "removed.json"
"""Beside the files: which version they are, who removed it, and when."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrashEntry:
    """A removed version whose files are still there."""

    name: str
    """Of the entry's folder."""
    model: str
    version: int
    at: float
    """When it was removed; epoch seconds."""
    by: str
    folder: Path
    """The model's files."""


class Trash:
    """One folder, on the file system of the repository, so that removing is a rename."""

    def __init__(self, *, folder: Path) -> None:
        """Create ``folder`` where it is missing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, version: Version) -> Path | None:
        """Move the files of a removed version here; return their new place.

        ``None``: they were deleted, as the removal asked (`Version.purge`), or are gone already.
        """
        source = Path(version.path)
        if not os.path.lexists(source):
            return None
        at = version.removed_at or time.time()
        day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at))
        entry = self.folder / f"{version.model}@{version.version}-{day}"
        entry.mkdir(exist_ok=True)
        note = {
            "model": version.model,
            "version": version.version,
            "digest": version.digest,
            "at": at,
            "by": version.removed_by,
            "purge": bool(version.purge),
        }
        # The note is first: files without one would be taken for an interrupted removal.
        (entry / NOTE).write_text(json.dumps(note, indent=2) + "\n")
        os.rename(source, entry / version.model)
        if version.purge:
            shutil.rmtree(entry)
            return None
        return entry / version.model

    def entries(self) -> list[TrashEntry]:
        """Return what can be restored, the newest first."""
        found = [entry for folder in self._folders() for entry in [_read(folder)] if entry]
        return sorted(found, key=lambda entry: -entry.at)

    def find(self, name: str) -> TrashEntry:
        """Return the entry ``name``, or the newest of the model ``name``.

        Raises:
            InputError: there is none.
        """
        for entry in self.entries():
            if name in (entry.name, entry.model, f"{entry.model}@{entry.version}"):
                return entry
        raise InputError(f"the trash holds no {name!r}; `modelium trash ls` lists what it holds")

    def expire(self, *, before: float) -> list[str]:
        """Delete what was removed before the instant ``before``, and what is no entry any more."""
        kept = {entry.name for entry in self.entries() if entry.at >= before}
        gone = []
        for folder in self._folders():
            if folder.name not in kept:
                self.delete(folder.name)
                gone.append(folder.name)
        return gone

    def delete(self, name: str) -> None:
        """Delete one entry."""
        shutil.rmtree(self.folder / name)

    def _folders(self) -> Iterator[Path]:
        return (folder for folder in self.folder.iterdir() if folder.is_dir())


def _read(folder: Path) -> TrashEntry | None:
    """Return the entry in ``folder``; ``None``: restored, to be purged, or never finished."""
    try:
        note: dict[str, Any] = json.loads((folder / NOTE).read_text())
        if note["purge"] or not (folder / note["model"]).exists():
            return None
        return TrashEntry(
            name=folder.name,
            model=str(note["model"]),
            version=int(note["version"]),
            at=float(note["at"]),
            by=str(note["by"]),
            folder=folder / note["model"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
