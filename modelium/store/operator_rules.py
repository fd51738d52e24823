"""What the operator has switched. Every method is one short transaction and blocks."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.store import schema
from modelium.store.upsert import put

IDLE_PAUSE = "idle_paused_since"
"""Key in ``meta`` of when idle evictions were paused, in epoch seconds; 0: they are not."""


class OperatorRules:
    """The operator's switches, as last known."""

    def __init__(self, *, engine: Engine) -> None:
        """Read and write with ``engine``."""
        self._engine = engine

    def idle_pause(self) -> float | None:
        """Return since when idle evictions are paused (epoch seconds); ``None``: they are not."""
        query = sa.select(schema.meta.c.value).where(schema.meta.c.key == IDLE_PAUSE)
        with self._engine.connect() as tx:
            return tx.scalar(query) or None

    def set_idle_pause(self, since: float | None) -> None:
        """Store since when idle evictions are paused; ``None``: they are not."""
        with self._engine.begin() as tx:
            put(tx, schema.meta, [{"key": IDLE_PAUSE, "value": int(since or 0)}])
