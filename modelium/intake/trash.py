"""The trash: files of removed models, kept until their retention ends. Every call blocks.

Each entry is a folder with the model's files, under the model's name, and `NOTE`. Moving that
folder into the drop zone brings the model back. Where a crash has cost an entry its note, the
files are kept for the retention all the same, and can be moved by hand.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelium.errors import InputError
from modelium.intake.removal import remove
from modelium.models import Version

logger = logging.getLogger(__name__)

NOTE = "removed.json"
"""Beside the files: which version they are, whose, who removed it, and when."""

DOOMED = ".purge-"
"""How the names of folders begin that are being deleted: a crash or an error left them."""


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
    team: str | None
    """Whose it was."""
    folder: Path
    """The model's files."""


class Trash:
    """One folder, on the file system of the repository, so that removing is a rename."""

    def __init__(self, *, folder: Path) -> None:
        """Create ``folder`` where it is missing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # An entry that is being made looks like one whose files were restored.
        self._lock = threading.Lock()

    def put(self, version: Version) -> Path | None:
        """Move the files of a removed version here; return their new place.

        ``None``: they were deleted, as the removal asked (`Version.purge`), or are gone already.
        Repeated after a crash, it leaves alone what lies at the former path by then.
        """
        source = Path(version.path)
        at = version.removed_at or time.time()
        day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at))
        entry = self.folder / f"{version.model}@{version.version}-{day}"
        with self._lock:
            if not self.folder.exists():  # somebody has emptied it by hand
                self.folder.mkdir(parents=True)
            if version.purge:
                self._purge(source, self.folder / f"{DOOMED}{entry.name}")
                return None
            if os.path.lexists(entry / version.model):
                return entry / version.model
            if not os.path.lexists(source):
                return None
            entry.mkdir(exist_ok=True)
            _write_note(entry / NOTE, version, at)
            os.rename(source, entry / version.model)
        return entry / version.model

    def entries(self) -> list[TrashEntry]:
        """Return what can be restored, the newest first."""
        found = [entry for folder in self._folders() for entry in [_read(folder)] if entry]
        return sorted(found, key=lambda entry: -entry.at)

    def find(self, name: str, *, team: str | None = None) -> TrashEntry:
        """Return the entry ``name``, or the newest of the model ``name``.

        ``team``: whose it has to be; default: anybody's.

        Raises:
            InputError: there is none.
        """
        for entry in self.entries():
            if team in (None, entry.team) and name in (
                entry.name,
                entry.model,
                f"{entry.model}@{entry.version}",
            ):
                return entry
        of = f" of team {team}" if team else ""
        raise InputError(
            f"the trash holds no {name!r}{of}; `modelium trash ls` lists what it holds"
        )

    def team_of(self, folder: Path) -> str | None:
        """Return the team of the entry in ``folder``."""
        entry = _read(folder)
        return entry.team if entry is not None else None

    def expire(self, *, before: float) -> list[str]:
        """Delete what was removed before the instant ``before``, and what is no entry any more."""
        gone = []
        with self._lock:
            kept = {entry.name for entry in self.entries() if entry.at >= before}
            for folder in self._folders():
                lost = _has_lost_its_note(folder) and folder.stat().st_ctime >= before
                if folder.name not in kept and not lost and _delete(folder):
                    gone.append(folder.name)
        return gone

    def delete(self, name: str) -> None:
        """Delete one entry; what cannot be deleted now is tried again by `expire`."""
        with self._lock:
            _delete(self.folder / name)

    def _purge(self, source: Path, doomed: Path) -> None:
        """Delete ``source``, by way of a name that tells so: it takes no space on a full disk."""
        if os.path.lexists(source) and not os.path.lexists(doomed):
            os.rename(source, doomed)
        if os.path.lexists(doomed):
            _delete(doomed)

    def _folders(self) -> list[Path]:
        if not self.folder.exists():
            return []
        return [folder for folder in self.folder.iterdir() if folder.is_dir()]


def _write_note(file: Path, version: Version, at: float) -> None:
    """Write the note, synced to disk: what it says must not be lost before the files arrive."""
    note = {
        "model": version.model,
        "version": version.version,
        "digest": version.digest,
        "at": at,
        "by": version.removed_by,
        "team": version.team,
        "purge": False,
    }
    with file.open("w") as out:
        out.write(json.dumps(note, indent=2) + "\n")
        out.flush()
        os.fsync(out.fileno())


def _delete(folder: Path) -> bool:
    """Delete ``folder``; return whether it is gone."""
    try:
        remove(folder)
    except OSError as exc:
        logger.warning("%s cannot be deleted, and will be tried again: %s", folder, exc)
        return False
    return True


def _has_lost_its_note(folder: Path) -> bool:
    """Whether ``folder`` has files and no readable note of which model."""
    if folder.name.startswith(DOOMED):
        return False
    if all(entry.name == NOTE for entry in folder.iterdir()):
        return False
    try:
        note = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return True
    return not isinstance(note, dict) or not {"model", "purge"} <= note.keys()


def _read(folder: Path) -> TrashEntry | None:
    """Return the entry in ``folder``; ``None``: restored, without a note, or never finished."""
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
            team=note.get("team") or None,
            folder=folder / note["model"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
