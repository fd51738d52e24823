"""A row that one process at a time holds, by the database's own clock.

Unlike a lock of a session it survives poolers, failovers and reconnections, and it ends by itself
where its holder does.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.store import schema
from modelium.store.connection import own_rows, reading
from modelium.store.upsert import put

TTL_S = 15.0
"""For which a lease is held unless it is renewed, which is tried three times as often."""

NODE_LEASE = "node "
"""What the names of leases begin with that the services of nodes hold."""


class Held(NamedTuple):
    """A lease that another process holds."""

    holder: str
    until: float
    """Epoch seconds of the database."""


class Lease:
    """The lease called ``name``, for one process. Every method is one transaction and blocks."""

    def __init__(
        self,
        *,
        engine: Engine,
        name: str,
        holder: str,
        ttl_s: float = TTL_S,
        heir_of: str | None = None,
    ) -> None:
        """Take nothing yet.

        Args:
            engine: of PostgreSQL.
            name: of the lease.
            holder: tells this process from all others, and people which one it is.
            ttl_s: for which it is held unless it is renewed.
            heir_of: how the holders begin that this one takes it from at once, because none of
                them can be alive; no other holder may begin like that.
        """
        self._engine = engine
        self._name = name
        self._holder = holder
        self._ttl_s = ttl_s
        self._heir_of = heir_of
        self.epoch = 0
        """Of the last `take` that succeeded."""

    def take(self) -> Held | None:
        """Take the lease unless another process holds it: who does is returned."""
        with self._engine.begin() as tx:
            # Its holder may be renewing it, which waits for no writer: whoever locks the row first.
            row = self._row(tx, lock=True)
            now = database_time(tx)
            if row is not None and row.until > now and not self._inherits(row.holder):
                return Held(row.holder, row.until)
            epoch = 1 if row is None else row.epoch + 1
            fresh = {"holder": self._holder, "epoch": epoch, "until": now + self._ttl_s}
            put(tx, schema.leases, [{"name": self._name, **fresh}])
        self.epoch = epoch
        return None

    def _inherits(self, holder: str) -> bool:
        dead = self._heir_of is not None and holder.startswith(self._heir_of)
        return dead or holder == self._holder

    def others(self) -> Held | None:
        """Return who else holds the lease, without taking it; waits for no writer."""
        with reading(self._engine) as tx:
            now, row = database_time(tx), self._row(tx)
            if row is None or row.until <= now or self._inherits(row.holder):
                return None
            return Held(row.holder, row.until)

    def renew(self) -> bool:
        """Hold it for its time from now on; False: another process has taken it.

        One that has run out is renewed, too, as long as nobody has taken it. It waits for no
        writer: a lease is not lost to plans that take long.
        """
        with own_rows(self._engine) as tx:
            return self._set(tx, database_time(tx) + self._ttl_s)

    def release(self) -> None:
        """Let others take it at once; one that was lost stays theirs."""
        with own_rows(self._engine) as tx:
            self._set(tx, 0.0)

    def lost_to(self, tx: Connection) -> str | None:
        """Return the process that has taken it since; ``None``: it is still this one's.

        An earlier epoch is that of a holder before: a failover has lost that this one took it.
        """
        row = self._row(tx)
        if row is None or row.holder == self._holder or row.epoch < self.epoch:
            return None
        holder: str = row.holder
        return holder

    def regain(self) -> None:
        """Take it again where a failover has lost that this process took it."""
        with reading(self._engine) as tx:
            row = self._row(tx)
        if row is None or row.epoch < self.epoch:
            self.take()

    def is_held(self, tx: Connection) -> bool:
        """Whether nobody has taken it since the last `take`, whatever time has passed."""
        row = self._row(tx)
        return row is not None and (row.holder, row.epoch) == (self._holder, self.epoch)

    def _set(self, tx: Connection, until: float) -> bool:
        table = schema.leases
        own = table.c.holder == self._holder, table.c.epoch == self.epoch
        mine = sa.and_(table.c.name == self._name, *own)
        return bool(tx.execute(sa.update(table).where(mine).values(until=until)).rowcount)

    def _row(
        self, tx: Connection, *, lock: bool = False
    ) -> sa.Row[tuple[str, str, int, float]] | None:
        table = schema.leases
        query = sa.select(table).where(table.c.name == self._name)
        return tx.execute(query.with_for_update() if lock else query).one_or_none()


def database_time(tx: Connection) -> float:
    """Return the time of the database, the only clock that all nodes share (epoch seconds)."""
    if tx.dialect.name == "sqlite":
        return time.time()
    return float(tx.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")))
