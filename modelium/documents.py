"""JSON documents of the store, parsed once while they stay as they are."""

from __future__ import annotations

import json
from typing import TypeVar

from modelium.models import Frozen

D = TypeVar("D", bound=Frozen)


class Documents:
    """Remembers what the text of each row's document means: parsing is most of a view's cost."""

    def __init__(self) -> None:
        """Start with none."""
        self._known: dict[tuple[type[Frozen], str], tuple[object, Frozen | None]] = {}

    def read(self, kind: type[D], key: str, raw: object) -> D | None:
        """Return ``raw`` as a ``kind``; ``key`` names the row that it is from.

        ``raw``: JSON text, or what the database's driver made of it.
        """
        known = self._known.get((kind, key))
        if known is not None and known[0] == raw:
            parsed = known[1]
            return parsed if isinstance(parsed, kind) else None
        document = json.loads(raw) if isinstance(raw, str) else raw
        made = kind.model_validate(document) if document is not None else None
        self._known[kind, key] = raw, made
        return made

    def forget(self, keys: set[str]) -> None:
        """Drop what is known of rows other than ``keys``."""
        for known in list(self._known):  # a copy: other threads read meanwhile
            if known[1] not in keys:
                self._known.pop(known, None)
