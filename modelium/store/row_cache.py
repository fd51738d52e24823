"""What the store's rows mean, worked out once while they stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from modelium.models import Frozen

D = TypeVar("D", bound=Frozen)


class RowCache:
    """Remembers what was made of each row: parsing and checking are most of a view's cost."""

    def __init__(self) -> None:
        """Start with none."""
        self._known: dict[tuple[type[Frozen], str], tuple[object, Frozen]] = {}

    def read(self, kind: type[D], key: str, raw: object) -> D | None:
        """Return ``raw`` as a ``kind``; ``key`` names the row that it is from.

        ``raw``: JSON text, or what the database's driver made of it.
        """
        if raw is None:
            return None
        return self.made(kind, key, raw, lambda: _parsed(kind, raw))

    def made(self, kind: type[D], key: str, raw: object, make: Callable[[], D]) -> D:
        """Return what ``make`` made of ``raw``, without calling it where ``raw`` is as before."""
        known = self._known.get((kind, key))
        if known is not None and known[0] == raw and isinstance(known[1], kind):
            return known[1]
        new = make()
        self._known[kind, key] = raw, new
        return new

    def retain(self, keys: set[str]) -> None:
        """Forget all rows but those of ``keys``."""
        for known in list(self._known):  # a copy: other threads read meanwhile
            if known[1] not in keys:
                self._known.pop(known, None)


def _parsed(kind: type[D], raw: object) -> D:
    return kind.model_validate(json.loads(raw) if isinstance(raw, str) else raw)
