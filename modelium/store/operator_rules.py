"""What the operator has switched and declared. Every method is one transaction and blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.models import Model
from modelium.store import queries, schema
from modelium.store.connection import reading
from modelium.store.upsert import put, put_missing

IDLE_PAUSE = "idle_paused_since"
"""Key in ``meta`` of when idle evictions were paused, in epoch seconds; 0: they are not."""

Columns = Mapping[str, Any]
"""``team``, ``priority``, ``priority_ceiling`` and ``pinned`` of one model."""


class OperatorRules:
    """The operator's switches, pins and approvals, and what the configuration last said."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """Read and write with ``engine``; ``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now

    def idle_pause(self) -> float | None:
        """Return since when idle evictions are paused (epoch seconds); ``None``: they are not."""
        query = sa.select(schema.meta.c.value).where(schema.meta.c.key == IDLE_PAUSE)
        with reading(self._engine) as tx:
            return tx.scalar(query) or None

    def set_idle_pause(self, since: float | None) -> None:
        """Store since when idle evictions are paused; ``None``: they are not."""
        with self._engine.begin() as tx:
            put(tx, schema.meta, [{"key": IDLE_PAUSE, "value": int(since or 0)}])

    def asked(self) -> dict[str, Columns]:
        """Return what came with the last drop of each registered model; empty where unknown."""
        m, s = schema.models, schema.standings
        query = sa.select(m.c.name, s.c.asked).outerjoin(s, s.c.model == m.c.name)
        with reading(self._engine) as tx:
            found = tx.execute(query.where(m.c.twin_of.is_(None)))
            return {row.name: row.asked or {} for row in found}

    def apply_standings(
        self, wanted: Mapping[str, Columns], *, named: Mapping[str, frozenset[str]]
    ) -> list[str]:
        """Give models what is ``wanted`` where that is not what it was before.

        Every plan that was made before is stale afterwards: the rules may have changed.

        Args:
            wanted: by model.
            named: the fields that the configuration names, by model: of a model of which nothing
                is stored, only these are given.

        Returns:
            The models that changed.
        """
        changed = []
        with queries.change(self._engine) as tx:
            stored = {row.model: row for row in tx.execute(sa.select(schema.standings))}
            for model, columns in wanted.items():
                known = stored.get(model)
                if known is not None and known.declared == columns:
                    continue
                fresh = {
                    name: value
                    for name, value in columns.items()
                    if (
                        name in named.get(model, ())
                        if known is None
                        else known.declared.get(name) != value
                    )
                }
                row = {
                    "model": model,
                    "asked": known.asked if known is not None else {},
                    "declared": dict(columns),
                }
                put(tx, schema.standings, [row])
                if fresh:
                    tx.execute(queries.update_model(model).values(**fresh))
                    changed.append(model)
        return sorted(changed)

    def set_pinned(self, name: str, pinned: bool) -> Model:
        """Pin or unpin; raises `UnknownModel`."""
        with queries.change(self._engine) as tx:
            if not tx.execute(queries.update_model(name).values(pinned=pinned)).rowcount:
                raise queries.unknown(name)
            return queries.models(tx, name)[0]

    def approve(self, name: str, *, digest: str, what: Iterable[str]) -> None:
        """Allow ``what`` for exactly this content."""
        now = self._now()
        rows = [{"digest": digest, "what": item, "model": name, "at": now} for item in set(what)]
        with queries.change(self._engine) as tx:
            put_missing(tx, schema.approvals, rows)

    def approvals(self, digest: str) -> frozenset[str]:
        """Return what is allowed for this content."""
        with reading(self._engine) as tx:
            return frozenset(tx.scalars(queries.approved(digest)))
