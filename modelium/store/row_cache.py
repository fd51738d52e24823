"""A cache of parsed rows: each is parsed once as long as it does not change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from modelium.models import Frozen
from modelium.store.documents import parsed

D = TypeVar("D", bound=Frozen)


class RowCache:
    """Caches the model of each row: parsing and validation are most of the cost of a view."""

    def __init__(self) -> None:
        """Start empty."""
        self._known: dict[tuple[type[Frozen], str], tuple[object, Frozen]] = {}

    def read(self, kind: type[D], key: str, raw: object) -> D | None:
        """Return ``raw`` parsed as a ``kind``; ``key`` identifies its row.

        ``raw``: JSON text, or data that the database driver has already parsed.
        """
        if raw is None:
            return None
        return self.made(kind, key, raw, lambda: _parsed(kind, raw))

    def made(self, kind: type[D], key: str, raw: object, make: Callable[[], D]) -> D:
        """Return what ``make`` returns for ``raw``; it is called only when ``raw`` has changed."""
        known = self._known.get((kind, key))
        if known is not None and known[0] == raw and isinstance(known[1], kind):
            return known[1]
        new = make()
        self._known[kind, key] = raw, new
        return new

    def retain(self, keys: set[str]) -> None:
        """Forget all rows but those of ``keys``."""
        for known in list(self._known):  # a copy, since other threads read at the same time
            if known[1] not in keys:
                self._known.pop(known, None)


def _parsed(kind: type[D], raw: object) -> D:
    return parsed(kind, json.loads(raw) if isinstance(raw, str) else raw)
