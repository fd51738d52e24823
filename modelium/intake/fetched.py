"""Which folders of the repository were fetched from another machine. Every call blocks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from modelium.intake.removal import remove


class FetchedCopies:
    """Which folders of the repository are fetched copies, and when each was last loaded.

    A copy is told by its inode: a folder that somebody puts in its place later is no copy.
    """

    def __init__(self, *, repository: Path) -> None:
        """``repository``: the folder of the published models."""
        self._repository = repository
        self._notes = repository / ".fetched"

    def note(self, folder: Path, name: str, *, model: str, version: int, at: float) -> None:
        """Write down that ``folder``, soon called ``name``, was fetched at ``at`` (epoch)."""
        self._notes.mkdir(exist_ok=True)
        inode = folder.stat().st_ino
        self._write(name, {"inode": inode, "model": model, "version": version, "loaded_at": at})

    def touch(self, name: str, *, at: float) -> None:
        """Write down that a copy is loaded at ``at`` (epoch); nothing, where it is none."""
        if self.is_copy(name):
            self._write(name, {**self._read(name), "loaded_at": at})

    def is_copy(self, name: str) -> bool:
        """Whether the folder ``name`` of the repository was fetched."""
        try:
            return (self._repository / name).lstat().st_ino == self._read(name).get("inode")
        except OSError:
            return False

    def oldest_first(self) -> list[tuple[str, tuple[str, int]]]:
        """Return the copies, each with its model and version, the least recently loaded first."""
        try:
            names = [name for name in os.listdir(self._notes) if not name.startswith(".")]
        except FileNotFoundError:
            return []
        names = [name.removesuffix(".json") for name in names]
        found = [(name, self._read(name)) for name in names if self.is_copy(name)]
        found.sort(key=lambda copy: float(copy[1].get("loaded_at", 0.0)))
        return [
            (name, (str(note.get("model", "")), int(note.get("version", 0))))
            for name, note in found
        ]

    def remove(self, name: str) -> bool:
        """Delete the copy ``name`` with its note; return whether it was one. A kill leaves no part.

        Raises:
            OSError: something in it cannot be deleted now; it is no model any more.
        """
        doomed = self._notes / f".doomed-{name}"
        was = self.is_copy(name)
        if was:
            remove(doomed)
            os.rename(self._repository / name, doomed)
        (self._notes / f"{name}.json").unlink(missing_ok=True)
        remove(doomed)
        return was

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self._notes / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, note: dict[str, Any]) -> None:
        fresh = self._notes / f".{name}.json"
        with fresh.open("w") as out:
            json.dump(note, out)
            out.flush()
            os.fsync(out.fileno())
        os.rename(fresh, self._notes / f"{name}.json")
