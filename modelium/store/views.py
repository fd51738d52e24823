"""All models and bookings as of one moment; with PostgreSQL only changed rows are read again."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.models import Booking, Model
from modelium.store import queries
from modelium.store.connection import reading
from modelium.store.row_cache import RowCache

T = TypeVar("T")

View = tuple[int, tuple[Model, ...], tuple[Booking, ...]]
"""Revision, all models, all bookings."""

MOST_CHANGED = 200
"""Models that are read one by one: for more, reading all is as fast."""

HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
"""The oldest transaction that has not ended: rows of it, and of later ones, may be unseen yet."""

XIDS = 2**32
"""Transactions are numbered modulo this."""

CHANGED = " UNION ".join(
    f"SELECT {column} FROM {table} WHERE age(xmin) <= age(CAST(:horizon AS xid))"  # noqa: S608
    for table, column in (
        ("models", "name"),
        ("versions", "model"),
        ("deployments", "model"),
        ("measured", "model"),
        ("bookings", "model"),
    )
)
"""The models with rows that a transaction since ``:horizon`` wrote, which ``xmin`` is; a row that
is two thousand million transactions old counts again."""

ROWS = """SELECT
 (SELECT count(*) FROM models m JOIN versions v
  ON v.model = coalesce(m.twin_of, m.name) AND v.version = m.version),
 (SELECT count(*) FROM deployments JOIN models ON name = model),
 (SELECT count(*) FROM measured JOIN models ON name = model),
 (SELECT count(*) FROM bookings JOIN models ON name = model)"""
"""How many rows are shown, of each table."""

APPROVALS = (
    "SELECT md5(string_agg(concat(digest, ' ', what), ',' ORDER BY digest, what)) FROM approvals"
)
"""They are of contents, not of models, and change seldom."""


class _Since(NamedTuple):
    """From when on another look finds changes."""

    horizon: int
    approvals: str | None

    @classmethod
    def of(cls, tx: Connection) -> _Since | None:
        if tx.dialect.name != "postgresql":
            return None
        horizon = tx.scalar(sa.text(HORIZON))
        return cls(horizon=horizon, approvals=tx.scalar(sa.text(APPROVALS)))


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What was read, and when."""

    marks: queries.Marks
    since: _Since | None
    """``None``: the database cannot tell what changes."""
    models: Mapping[str, Model]
    bookings: Mapping[str, tuple[Booking, ...]]
    view: View

    @classmethod
    def of(
        cls,
        marks: queries.Marks,
        since: _Since | None,
        models: Mapping[str, Model],
        bookings: Mapping[str, tuple[Booking, ...]],
    ) -> _Read:
        booked = tuple(booking for held in bookings.values() for booking in held)
        view = marks.revision, tuple(models.values()), booked
        return cls(marks=marks, since=since, models=models, bookings=bookings, view=view)


class Views:
    """Reads views, one at a time. Safe to use from several threads."""

    def __init__(self, *, engine: Engine) -> None:
        """Nothing is read yet."""
        self._engine = engine
        self._cache = RowCache()
        self._reading = threading.Lock()
        self._last: _Read | None = None
        # Another server may have taken over, whose counters and transactions are lower.
        sa.event.listen(engine, "invalidate", self._forget)

    def _forget(self, *_broken: object) -> None:
        self._last = None

    def read(self) -> View:
        """Return revision, all models and all bookings, read in one transaction."""
        with self._reading, reading(self._engine) as tx:
            marks, last = queries.marks(tx), self._last
            # Building a thousand models takes 0.1 s, and mostly nothing has changed.
            if last is None or last.marks != marks:
                last = self._last = self._after(tx, last, marks) or self._whole(tx, marks)
        return last.view

    def _whole(self, tx: Connection, marks: queries.Marks) -> _Read:
        models = {model.name: model for model in queries.models(tx, cache=self._cache)}
        self._cache.retain(set(models))
        bookings = _by_model(queries.bookings(tx))
        return _Read.of(marks, _Since.of(tx), models, bookings)

    def _after(self, tx: Connection, last: _Read | None, marks: queries.Marks) -> _Read | None:
        """Return ``last`` with what has changed since; ``None``: all is to be read."""
        since = _Since.of(tx)
        if last is None or last.since is None or since is None:
            return None
        if since.approvals != last.since.approvals:
            return None
        names = set(tx.scalars(sa.text(CHANGED), {"horizon": str(last.since.horizon % XIDS)}))
        names |= {model.name for model in last.models.values() if model.twin_of in names}
        if len(names) > MOST_CHANGED:
            return None
        models = {name: model for name, model in last.models.items() if name not in names}
        bookings = {name: held for name, held in last.bookings.items() if name not in names}
        fresh = queries.models(tx, cache=self._cache, names=names)
        models |= {model.name: model for model in fresh}
        bookings |= _by_model(queries.bookings(tx, names))
        # What was deleted leaves no row that could tell, unless its model's own row has changed.
        if tuple(tx.execute(sa.text(ROWS)).one()) != _counted(models, bookings):
            return None
        self._cache.retain(set(models))
        return _Read.of(marks, since, _sorted(models), _sorted(bookings))


def _by_model(bookings: Iterable[Booking]) -> dict[str, tuple[Booking, ...]]:
    found: dict[str, list[Booking]] = {}
    for booking in bookings:
        found.setdefault(booking.model, []).append(booking)
    return {name: tuple(held) for name, held in found.items()}


def _counted(
    models: Mapping[str, Model], bookings: Mapping[str, tuple[Booking, ...]]
) -> tuple[int, ...]:
    """Return what `ROWS` counts, as it was read."""
    return (
        len(models),
        sum(model.deployment is not None for model in models.values()),
        sum(len(model.measured) for model in models.values()),
        sum(map(len, bookings.values())),
    )


def _sorted(by_name: Mapping[str, T]) -> dict[str, T]:
    return {name: by_name[name] for name in sorted(by_name)}
