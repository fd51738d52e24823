"""Drops that lie where they were put: still arriving, incomplete, or refused in place."""

from __future__ import annotations

from pathlib import Path

from modelium.models import Drop


class PendingDrops:
    """Remembers what the drop zone's watcher and ingest found; a restart finds it again.

    Belongs to the service's event loop.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._by_path: dict[str, Drop] = {}

    def note(self, drop: Drop) -> None:
        """Remember ``drop`` in place of what was known of its path."""
        self._by_path[drop.path] = drop

    def withdraw(self, path: Path) -> None:
        """Forget what was known of ``path``: it has become a model, or is gone."""
        self._by_path.pop(str(path), None)

    def forget(self, path: str) -> None:
        """`withdraw` by the path as it was noted, which may be a URL."""
        self._by_path.pop(path, None)

    def at(self, path: Path) -> Drop | None:
        """Return what is known of ``path``."""
        return self._by_path.get(str(path))

    def all(self) -> list[Drop]:
        """Return all drops by name."""
        return sorted(self._by_path.values(), key=lambda drop: (drop.name, drop.path))
