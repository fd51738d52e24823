"""What an LLM did otherwise than the rules. Every method is one transaction and blocks."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.models import Decision, Departure, DepartureKind, Load, Queue, Trigger
from modelium.policy.departures import noted
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.documents import parsed
from modelium.store.upsert import put_missing

READ = 500
"""Departures of a kind read at once, the newest: those without a price have no budget."""

REQUESTED = frozenset({Trigger.DEMAND, Trigger.OPERATOR, Trigger.TEAM})
"""Triggers of loads that somebody asked for."""

KEPT_S = 30 * 86_400.0
"""For which departures are kept: they are read for a week, and are evidence for longer."""


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

    def note_requests(self, asked: Mapping[str, float], *, since: float, at: float) -> None:
        """Note by which requests the departures are judged whose time is not over.

        A departure whose time was not watched up to ``since`` is void, and stays as it is.

        Args:
            asked: model → its last request (epoch), of all models.
            since: up to when this process has noted requests (epoch).
            at: when ``asked`` was read (epoch).
        """
        table = schema.departures
        watched = sa.and_(table.c.seen_until < table.c.until, table.c.seen_until >= since)
        with self._engine.begin() as tx:
            for row in tx.execute(sa.select(table).where(watched)).all():
                _write(tx, row, noted(_departure(row), asked, at=at))


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
            "shadow": one.shadow,
            "right_if": list(one.right_if),
            "wrong_if": list(one.wrong_if),
            "asked_at": None,
            "needed_at": None,
            "seen_until": decision.at,
        }
        for one in decision.plan.departures
    ]
    put_missing(tx, schema.departures, rows)


def note_loads(tx: Connection, decision: Decision) -> None:
    """Note the models of ``decision`` that somebody asked for, inside the transaction ``tx``."""
    if decision.plan.trigger not in REQUESTED:
        return
    # Where there is no room at once, it is queued, and a sweep loads it.
    wanted = [a.model for a in decision.plan.actions if isinstance(a, Load | Queue)]
    table = schema.departures
    for row in tx.execute(sa.select(table).where(table.c.until > decision.at)).all():
        one = _departure(row)
        # Nothing is said of the time before: only the control loop watches all models.
        _write(tx, row, noted(one, dict.fromkeys(wanted, decision.at), at=one.seen_until))


def forget(tx: Connection, now: float) -> None:
    """Delete the departures that are older than `KEPT_S`."""
    tx.execute(sa.delete(schema.departures).where(schema.departures.c.at < now - KEPT_S))


def _departure(row: sa.Row[tuple[object, ...]]) -> Departure:
    known = {k: v for k, v in row._mapping.items() if k != "decision" and v is not None}
    return parsed(Departure, known)


def _write(tx: Connection, row: sa.Row[tuple[object, ...]], one: Departure) -> None:
    """Store what was noted of ``one``, which was read from ``row``, where it is new."""
    table, known = schema.departures, row._mapping
    fresh = {name: getattr(one, name) for name in ("asked_at", "needed_at", "seen_until")}
    if any(known[name] != value for name, value in fresh.items()):
        key = (column == known[column.name] for column in table.primary_key)
        tx.execute(sa.update(table).where(*key).values(fresh))
