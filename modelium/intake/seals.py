"""Seals of the folders of this machine: inodes say nothing on another one. Every call blocks."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path


class Seals:
    """A file with the seal of each version whose files were read here and had their digest.

    Where it is lost, files are read once more.
    """

    def __init__(self, *, file: Path) -> None:
        """Read nothing yet."""
        self._file = file
        self._lock = threading.Lock()

    def of(self, model: str, version: int) -> str | None:
        """Return the seal of a version; ``None``: its files were not read here."""
        return self._read().get(f"{model}@{version}")

    def note(self, model: str, version: int, seal: str) -> None:
        """Note the seal of a version."""
        with self._lock:
            self._write({**self._read(), f"{model}@{version}": seal})

    def keep(self, versions: set[tuple[str, int]]) -> None:
        """Forget all but ``versions`` (model, number)."""
        with self._lock:
            known, wanted = self._read(), {f"{model}@{version}" for model, version in versions}
            if known.keys() - wanted:
                self._write({key: seal for key, seal in known.items() if key in wanted})

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {str(key): str(seal) for key, seal in found.items()}

    def _write(self, seals: dict[str, str]) -> None:
        fresh = self._file.with_name(f".{self._file.name}")
        fresh.write_text(json.dumps(seals))
        os.rename(fresh, self._file)
