"""What is left of keys' limits for all gateways. Methods are short transactions, and block."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.models.key_pools import Ask, Grant, Pool, settled
from modelium.store import schema
from modelium.store.connection import own_rows
from modelium.store.documents import parsed
from modelium.store.lease import database_time
from modelium.store.upsert import put, put_missing


class KeyPools:
    """One row per key that has limits and is in use."""

    def __init__(self, *, engine: Engine) -> None:
        """Read and write with ``engine``."""
        self._engine = engine

    def settle(self, asks: Mapping[str, Ask], *, gateway: str) -> dict[str, Grant]:
        """Give ``gateway`` what it asks for of each key, by the key's id, as far as it is there.

        With PostgreSQL it waits only for gateways that ask for the same keys at the same time.
        """
        table = schema.key_pools
        # In one order, so that no two transactions wait for each other.
        keys = sorted(asks)
        grants, rows = {}, []
        with own_rows(self._engine) as tx:
            empty = Pool().model_dump(mode="json")
            put_missing(tx, table, [{"key": key, "at": 0.0, "document": empty} for key in keys])
            query = sa.select(table.c.key, table.c.document).where(table.c.key.in_(keys))
            locked = query.order_by(table.c.key).with_for_update()
            found = {row.key: parsed(Pool, row.document) for row in tx.execute(locked)}
            now = database_time(tx)
            for key in keys:
                pool, grants[key] = settled(found[key], asks[key], gateway=gateway, now=now)
                rows.append({"key": key, "at": now, "document": pool.model_dump(mode="json")})
            put(tx, table, rows)
        return grants
