"""Measurements: memory that models hold, their traffic, the request log.

Every method is one short transaction and blocks. Rollups are hourly: finer than plans look ahead,
and a month of a thousand busy models stays under a million rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.models import MeasuredLoad, Traffic
from modelium.models.nodes import SILENT_S
from modelium.store import schema
from modelium.store.connection import own_rows, reading
from modelium.store.documents import parsed
from modelium.store.lease import database_time
from modelium.store.upsert import add, put
from modelium.traffic.request_log import LoggedRequest

HOUR_S = 3600
DAY_S = 86_400.0

MOST_REQUESTS = 1_000_000
"""Lines of the request log: about 70 MB, eight hours at 35 requests a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollup:
    """One hour of one model's traffic."""

    model: str
    at: float
    """Start of the hour (epoch)."""
    requests: int
    """Ended requests, failed ones included."""
    failed: int
    direct: int
    """Requests that bypassed the gateway."""
    prompt_tokens: int
    generated_tokens: int


class History:
    """Writes measurements for planners and replays."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now
        self.node = ""
        """Whose traffic this process counts."""
        self._stored: dict[str, Traffic] | None = None
        self._storing = threading.Lock()

    def act_as(self, node: str) -> None:
        """Count the traffic of ``node`` from now on."""
        with self._storing:
            self.node, self._stored = node, None

    def record_memory(
        self, resident: Mapping[tuple[str, str], int], loads: Mapping[str, MeasuredLoad]
    ) -> None:
        """Store memory measurements; no plan becomes stale by them.

        Args:
            resident: bytes held by each (model, device), where they changed.
            loads: measured loads by model; each replaces the one with the same settings.
        """
        with self._engine.begin() as tx:
            tx.execute(_seen)
            _store_resident(tx, resident)
            _store_loads(tx, loads)

    def record_traffic(self, traffic: Mapping[str, Traffic]) -> None:
        """Store the traffic of models, for use after a restart and for the rollups.

        Only what changed since the last call is written.
        """
        with self._storing:  # one at a time, so that no request is counted twice
            stored = self._stored if self._stored is not None else self.traffic()
            fresh = {
                model: seen
                for model, seen in traffic.items()
                if model not in stored or _mark(seen) != _mark(stored[model])
            }
            if fresh:
                with own_rows(self._engine) as tx:
                    self._write_traffic(tx, fresh, stored)
            self._stored = {**stored, **fresh}

    def adopt_traffic(self) -> None:
        """Take over what was counted before nodes had names, unless another node has."""
        table = schema.traffic
        with self._engine.begin() as tx:
            own = sa.select(table.c.model).where(table.c.node == self.node)
            nobodys = table.c.node == ""
            tx.execute(
                sa.update(table)
                .where(nobodys, table.c.model.not_in(own.scalar_subquery()))
                .values(node=self.node)
            )
            if self.node:
                tx.execute(sa.delete(table).where(nobodys))

    def traffic(self) -> dict[str, Traffic]:
        """Return each model's traffic at this node, as it was stored last."""
        table = schema.traffic
        query = sa.select(table.c.model, table.c.document).where(table.c.node == self.node)
        with reading(self._engine) as tx:
            found = tx.execute(query)
            return {row.model: parsed(Traffic, row.document) for row in found}

    def publish(self, traffic: Mapping[str, Traffic]) -> None:
        """Store what waits and is in flight at this node, for the one that plans."""
        rows = [
            {
                "node": self.node,
                "model": model,
                "at": self._now(),
                "document": seen.model_dump(mode="json"),
            }
            for model, seen in traffic.items()
        ]
        with own_rows(self._engine) as tx:
            put(tx, schema.traffic, rows)

    def elsewhere(self) -> dict[str, tuple[Traffic, ...]]:
        """Return each model's traffic at the other nodes that are not silent."""
        table, nodes = schema.traffic, schema.nodes
        query = sa.select(table.c.model, table.c.document).join(nodes, nodes.c.name == table.c.node)
        found: dict[str, list[Traffic]] = {}
        with reading(self._engine) as tx:
            heard = nodes.c.seen_at > database_time(tx) - SILENT_S
            for row in tx.execute(query.where(table.c.node != self.node, heard)):
                found.setdefault(row.model, []).append(parsed(Traffic, row.document))
        return {model: tuple(seen) for model, seen in found.items()}

    def log(self, lines: Sequence[LoggedRequest]) -> None:
        """Append to the request log, and add the tokens to the rollups."""
        if not lines:
            return
        tokens: dict[tuple[str, int], list[int]] = {}
        for line in lines:
            sums = tokens.setdefault((line.model, int(line.at // HOUR_S)), [0, 0])
            sums[0] += line.prompt_tokens or 0
            sums[1] += line.generated_tokens or 0
        with own_rows(self._engine) as tx:
            tx.execute(sa.insert(schema.requests), [line._asdict() for line in lines])
            _roll(
                tx,
                [
                    {"model": model, "hour": hour, "prompt_tokens": read, "generated_tokens": made}
                    for (model, hour), (read, made) in tokens.items()
                    if read or made
                ],
            )

    def requests(self, *, since: float = 0.0) -> list[LoggedRequest]:
        """Return the request log since ``since`` (epoch), in order of time."""
        table = schema.requests
        query = sa.select(*(table.c[name] for name in LoggedRequest._fields)).where(
            table.c.at >= since
        )
        with reading(self._engine) as tx:
            return [LoggedRequest(*row) for row in tx.execute(query.order_by(table.c.at))]

    def rollups(self, *, model: str | None = None, since: float = 0.0) -> list[Rollup]:
        """Return the hours with traffic, the oldest first, of all models or of one."""
        table = schema.rollups
        query = sa.select(table).where(table.c.hour >= since // HOUR_S)
        if model is not None:
            query = query.where(table.c.model == model)
        with reading(self._engine) as tx:
            found = tx.execute(query.order_by(table.c.hour, table.c.model)).mappings()
            return [
                Rollup(**{k: v for k, v in row.items() if k != "hour"}, at=row["hour"] * HOUR_S)
                for row in found
            ]

    def by_hour(self, hours: int) -> dict[str, tuple[int, ...]]:
        """Return model → requests in each of the last ``hours`` hours, the current one last."""
        now = int(self._now() // HOUR_S)
        found: dict[str, list[int]] = {}
        for rollup in self.rollups(since=(now - hours + 1) * HOUR_S):
            counts = found.setdefault(rollup.model, [0] * hours)
            counts[int(rollup.at // HOUR_S) - now + hours - 1] = rollup.requests
        return {model: tuple(counts) for model, counts in found.items()}

    def prune(self, *, rollup_days: float, request_days: float) -> None:
        """Delete older rows; the request log keeps at most `MOST_REQUESTS` lines."""
        now = self._now()
        hours, log = schema.rollups, schema.requests
        with self._engine.begin() as tx:
            tx.execute(sa.delete(hours).where(hours.c.hour < (now - rollup_days * DAY_S) // HOUR_S))
            newest = tx.scalar(sa.select(sa.func.max(log.c.id))) or 0
            tx.execute(
                sa.delete(log).where(
                    sa.or_(
                        log.c.at < now - request_days * DAY_S, log.c.id <= newest - MOST_REQUESTS
                    )
                )
            )

    def _write_traffic(
        self, tx: Connection, fresh: Mapping[str, Traffic], stored: Mapping[str, Traffic]
    ) -> None:
        now, table = self._now(), schema.traffic
        put(
            tx,
            table,
            [
                {
                    "node": self.node,
                    "model": model,
                    "at": now,
                    "document": seen.model_dump(mode="json"),
                }
                for model, seen in fresh.items()
            ],
        )
        none = Traffic()
        hour = int(now // HOUR_S)
        _roll(tx, _growth(hour, ((m, stored.get(m, none), seen) for m, seen in fresh.items())))


_seen = (
    sa.update(schema.meta).where(schema.meta.c.key == "seen").values(value=schema.meta.c.value + 1)
)

_COUNTS = ("requests", "failed", "direct", "prompt_tokens", "generated_tokens")


def _mark(traffic: Traffic) -> tuple[object, ...]:
    """Return what changes with each request; rates decay by themselves."""
    return traffic.completed, traffic.failed, traffic.direct, traffic.last_request_at


def _growth(hour: int, pairs: Iterable[tuple[str, Traffic, Traffic]]) -> list[dict[str, Any]]:
    """Return rollup rows for the requests between two calls."""
    rows = []
    for model, old, new in pairs:
        requests = new.completed + new.failed - old.completed - old.failed
        if requests > 0:
            rows.append(
                {
                    "model": model,
                    "hour": hour,
                    "requests": requests,
                    "failed": max(0, new.failed - old.failed),
                    "direct": max(0, new.direct - old.direct),
                }
            )
    return rows


def _roll(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add ``rows`` to their hours, as other nodes do at the same time: all in one order."""
    ordered = sorted(rows, key=lambda row: (row["model"], row["hour"]))
    add(tx, schema.rollups, [dict.fromkeys(_COUNTS, 0) | dict(row) for row in ordered])


def _store_resident(tx: Connection, resident: Mapping[tuple[str, str], int]) -> None:
    table = schema.bookings
    if resident:
        tx.execute(
            sa.update(table)
            .where(
                table.c.model == sa.bindparam("b_model"), table.c.device == sa.bindparam("b_device")
            )
            .values(resident_bytes=sa.bindparam("b_held")),
            [
                {"b_model": model, "b_device": device, "b_held": held}
                for (model, device), held in resident.items()
            ],
        )


def _store_loads(tx: Connection, loads: Mapping[str, MeasuredLoad]) -> None:
    rows = [{"model": model, **load.model_dump(mode="json")} for model, load in loads.items()]
    put(tx, schema.measured, rows)
