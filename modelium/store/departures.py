"""What an LLM did otherwise than the rules. Every method is one transaction and blocks."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.models import Decision, Departure, DepartureKind, Load, Queue, Trigger
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.upsert import put_missing

READ = 500
"""Departures of a kind read at once, the newest: those without a price have no budget."""

REQUESTED = frozenset({Trigger.DEMAND, Trigger.OPERATOR})
"""Triggers of loads that somebody asked for."""

KEPT_S = 30 * 86_400.0
"""For which departures are kept: they are read for two days, and are evidence for longer."""


class Departures:
    """The departures of accepted plans."""

    def __init__(self, *, engine: Engine) -> None:
        """Read with ``engine``."""
        self._engine = engine

    def since(self, at: float) -> tuple[Departure, ...]:
        """Return those accepted after ``at`` (epoch), the newest first."""
        table = schema.departures
        query = (
            sa.select(table)
            .where(table.c.at > at)
            .order_by(table.c.at.desc(), table.c.model, table.c.kind)
        )
        with reading(self._engine) as tx:
            rows = [
                row
                for kind in DepartureKind
                for row in tx.execute(query.where(table.c.kind == kind.value).limit(READ))
            ]
        return tuple(sorted(map(_departure, rows), key=lambda d: (-d.at, d.model, d.kind)))


def save_departures(tx: Connection, decision: Decision) -> None:
    """Insert the departures of ``decision``, inside the transaction ``tx``."""
    rows = [
        {
            "decision": decision.id,
            "kind": one.kind.value,
            "model": one.model,
            "beneficiary": one.beneficiary,
            "at": decision.at,
            "until": one.until,
            "price_s": one.price_s,
            "asked_at": None,
        }
        for one in decision.plan.departures
    ]
    put_missing(tx, schema.departures, rows)


def note_asked(tx: Connection, decision: Decision) -> None:
    """Note that somebody asked for models that wait, or were evicted, by a departure."""
    if decision.plan.trigger not in REQUESTED:
        return
    table = schema.departures
    tx.execute(
        sa.update(table)
        .where(
            # Where there is no room at once, it is queued, and a sweep loads it.
            table.c.model.in_(
                [a.model for a in decision.plan.actions if isinstance(a, Load | Queue)]
            ),
            table.c.asked_at.is_(None),
            table.c.until > decision.at,
        )
        .values(asked_at=decision.at)
    )


def forget(tx: Connection, now: float) -> None:
    """Delete the departures that are older than `KEPT_S`."""
    tx.execute(sa.delete(schema.departures).where(schema.departures.c.at < now - KEPT_S))


def _departure(row: sa.Row[tuple[object, ...]]) -> Departure:
    return Departure.model_validate({k: v for k, v in row._mapping.items() if k != "decision"})
