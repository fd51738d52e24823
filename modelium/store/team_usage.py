"""GPU-seconds that the models of each team used, by the hour.

Every method is one short transaction and blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.upsert import add

HOUR_S = 3600
WINDOW_HOURS = 24
"""Hours that quotas and shares count, the current one included."""


class TeamUsage:
    """Counts up, and returns the sums of the last day."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """Read and write with ``engine``; ``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now

    def add(self, gpu_seconds: Mapping[str, float]) -> None:
        """Add what each team used just now; no plan becomes stale by it."""
        hour = int(self._now() // HOUR_S)
        rows = [
            {"team": team, "hour": hour, "gpu_seconds": used} for team, used in gpu_seconds.items()
        ]
        with self._engine.begin() as tx:
            add(tx, schema.team_usage, rows)

    def of_the_last_day(self) -> dict[str, float]:
        """Return team → GPU-seconds in the last `WINDOW_HOURS`; ``""``: models without a team."""
        table, hour = schema.team_usage, int(self._now() // HOUR_S)
        query = (
            sa.select(table.c.team, sa.func.sum(table.c.gpu_seconds).label("used"))
            # A clock that was set back must not leave a team with a quota that is used up for good.
            .where(table.c.hour > hour - WINDOW_HOURS, table.c.hour <= hour)
            .group_by(table.c.team)
            .order_by(table.c.team)
        )
        with reading(self._engine) as tx:
            return {row.team: float(row.used) for row in tx.execute(query)}
