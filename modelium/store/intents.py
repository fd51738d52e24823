"""What operators asked for. Every method is one short transaction and blocks."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.errors import InputError
from modelium.models import Intent
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.upsert import put


class IntentLog:
    """Records intents and their outcomes."""

    def __init__(self, *, engine: Engine) -> None:
        """Read and write with ``engine``."""
        self._engine = engine

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
        return Intent.model_validate(row)

    def newest(self, *, limit: int = 50) -> list[Intent]:
        """Return intents, the newest first."""
        query = sa.select(schema.intents.c.document).order_by(schema.intents.c.at.desc())
        with reading(self._engine) as tx:
            return [Intent.model_validate(row) for row in tx.scalars(query.limit(limit))]
