"""Deletes what nothing refers to any more, and the oldest of what would grow without a bound.

Logs have their own bounds: events, decisions, intents, the request log and the rollups.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from modelium.store import schema
from modelium.store.lease import NODE_LEASE, database_time

HOUR_S = 3600.0
DAY_S = 86_400.0

APPROVALS_S = 30 * DAY_S
"""For which an approval may wait for a drop of its content to be registered."""

KEYS_S = 90 * DAY_S
"""For which a revoked or expired API key is still listed."""

POOLS_S = DAY_S
"""For which the limits of a key are kept that nobody uses: nothing of them is used up by then."""

VERSIONS_S = 365 * DAY_S
"""For which a removed version is remembered, so that its number is not used again."""

USAGE_S = 2 * DAY_S
"""For which the use of teams is kept: a day counts."""

MEASURED = 64
"""Measured loads that are kept per model: each has other settings, device kinds or runtimes."""


def prune(tx: Connection, now: float) -> None:
    """Delete from the tables that no log's own bound covers. ``now``: seconds since the epoch."""
    for table in (schema.measured, schema.traffic):
        tx.execute(sa.delete(table).where(table.c.model.not_in(sa.select(schema.models.c.name))))
    _measured(tx)
    _versions(tx, now - VERSIONS_S)
    usage = schema.team_usage
    tx.execute(sa.delete(usage).where(usage.c.hour < (now - USAGE_S) // HOUR_S))
    tx.execute(sa.delete(schema.key_pools).where(schema.key_pools.c.at < now - POOLS_S))
    known = sa.select(schema.versions.c.digest)
    approvals, keys = schema.approvals, schema.api_keys
    old = approvals.c.at < now - APPROVALS_S
    tx.execute(sa.delete(approvals).where(approvals.c.digest.not_in(known), old))
    _leases(tx)
    tokens = schema.join_tokens
    tx.execute(sa.delete(tokens).where(tokens.c.until < database_time(tx)))
    for field in ("revoked_at", "expires_at"):
        ended = keys.c.document[field].as_float()
        tx.execute(sa.delete(keys).where(ended.is_not(None), ended < now - KEYS_S))


def _leases(tx: Connection) -> None:
    """Forget the leases of nodes that were removed, and of their services that are gone."""
    table, nodes = schema.leases, schema.nodes
    known = sa.select(sa.literal(NODE_LEASE) + nodes.c.name)
    over = table.c.until < database_time(tx) - DAY_S
    named = table.c.name.startswith(NODE_LEASE)
    tx.execute(sa.delete(table).where(named, over, table.c.name.not_in(known)))


def _measured(tx: Connection) -> None:
    """Keep the newest `MEASURED` loads of each model."""
    table = schema.measured
    place = (
        sa.func.row_number()
        .over(partition_by=table.c.model, order_by=table.c.at.desc())
        .label("place")
    )
    ranked = sa.select(*table.primary_key.columns, place).subquery()
    for row in tx.execute(sa.select(ranked).where(ranked.c.place > MEASURED)).mappings().all():
        tx.execute(
            sa.delete(table).where(*(column == row[column.name] for column in table.primary_key))
        )


def _versions(tx: Connection, before: float) -> None:
    """Forget versions removed earlier, but the last one of a model that is still registered."""
    v, models = schema.versions, schema.models
    newest = (
        sa.select(v.c.model, sa.func.max(v.c.version).label("version"))
        .join(models, models.c.name == v.c.model)
        .group_by(v.c.model)
    )
    kept = {(row.model, row.version) for row in tx.execute(newest)}
    old = tx.execute(sa.select(v.c.model, v.c.version).where(v.c.removed_at < before)).all()
    for row in old:
        if (row.model, row.version) not in kept:
            tx.execute(sa.delete(v).where(v.c.model == row.model, v.c.version == row.version))
