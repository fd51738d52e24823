"""What operators asked for. Every method is one short transaction and blocks."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.errors import InputError
from modelium.models import Intent
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.documents import parsed
from modelium.store.upsert import put

KEPT = 10_000
"""Intents that `prune` leaves: about 5 MB at the usual size."""


class IntentLog:
    """Records intents and their outcomes."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """Read and write with ``engine``; ``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now

    def save(self, intent: Intent) -> Intent:
        """Insert or replace ``intent``, and return it."""
        document = intent.model_dump(mode="json")
        with self._engine.begin() as tx:
            put(tx, schema.intents, [{"id": intent.id, "at": intent.at, "document": document}])
        return intent

    def get(self, intent_id: str) -> Intent:
        """Return one intent.

        Raises:
            InputError: no intent has that id.
        """
        query = sa.select(schema.intents.c.document).where(schema.intents.c.id == intent_id)
        with reading(self._engine) as tx:
            row = tx.scalar(query)
        if row is None:
            raise InputError(f"no intent has the id {intent_id!r}")
        return parsed(Intent, row)

    def pending(self) -> list[Intent]:
        """Return the intents that have not ended, the oldest first."""
        table = schema.intents
        query = sa.select(table.c.document).where(
            table.c.document["state"].as_string() == "pending"
        )
        with reading(self._engine) as tx:
            return [parsed(Intent, row) for row in tx.scalars(query.order_by(table.c.at))]

    def abandon(self, intent_id: str, *, detail: str) -> None:
        """Mark an intent that is still pending as failed; one that has ended stays as it is."""
        table = schema.intents
        with self._engine.begin() as tx:
            row = tx.scalar(sa.select(table.c.document).where(table.c.id == intent_id))
            if row is not None and row["state"] == "pending":
                ended = {"state": "failed", "detail": detail, "finished_at": self._now()}
                this = sa.update(table).where(table.c.id == intent_id)
                tx.execute(this.values(document={**row, **ended}))

    def prune(self) -> None:
        """Delete all but the newest `KEPT`, and those that are pending."""
        table = schema.intents
        with self._engine.begin() as tx:
            oldest = tx.scalar(
                sa.select(table.c.at).order_by(table.c.at.desc()).offset(KEPT).limit(1)
            )
            if oldest is not None:
                ended = table.c.document["state"].as_string() != "pending"
                tx.execute(sa.delete(table).where(table.c.at <= oldest, ended))

    def newest(self, *, limit: int = 50) -> list[Intent]:
        """Return intents, the newest first."""
        query = sa.select(schema.intents.c.document).order_by(schema.intents.c.at.desc())
        with reading(self._engine) as tx:
            return [parsed(Intent, row) for row in tx.scalars(query.limit(limit))]
