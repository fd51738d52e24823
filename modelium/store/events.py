"""The log of events. Every method is one short transaction and blocks."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.models import Event
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.documents import parsed

KEPT = 100_000
"""Events that `prune` leaves: about 40 MB at the usual size."""


class EventLog:
    """Appends events, and tells a listener of each."""

    def __init__(
        self, *, engine: Engine, now: Callable[[], float], on_event: Callable[[Event], None]
    ) -> None:
        """Read and write with ``engine``.

        Args:
            engine: the database.
            now: seconds since the epoch.
            on_event: called after an event was stored, on the thread that stored it; must return
                at once.
        """
        self._engine = engine
        self._now = now
        self._on_event = on_event

    def append(self, kind: str, /, *, model: str | None = None, **detail: object) -> Event:
        """Store an event and tell the listener."""
        now = self._now()
        with self._engine.begin() as tx:
            key = tx.execute(
                sa.insert(schema.events).values(at=now, kind=kind, model=model, detail=detail)
            ).inserted_primary_key
        event = Event(id=key[0] if key else 0, at=now, kind=kind, model=model, detail=detail)
        self._on_event(event)
        return event

    def newest(self, *, model: str | None = None, limit: int = 50, after: int = 0) -> list[Event]:
        """Return events with an id above ``after``, the newest first."""
        query = sa.select(schema.events).where(schema.events.c.id > after)
        if model is not None:
            query = query.where(schema.events.c.model == model)
        with reading(self._engine) as tx:
            found = tx.execute(query.order_by(schema.events.c.id.desc()).limit(limit)).mappings()
            return [parsed(Event, dict(row)) for row in found]

    def prune(self) -> None:
        """Delete all but the newest `KEPT`."""
        table = schema.events
        with self._engine.begin() as tx:
            newest = tx.scalar(sa.select(sa.func.max(table.c.id))) or 0
            tx.execute(sa.delete(table).where(table.c.id <= newest - KEPT))
