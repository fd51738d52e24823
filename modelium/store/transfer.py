"""Carries a store from SQLite over to PostgreSQL, whole or not at all."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.errors import InputError
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.faults import shown
from modelium.store.lease import database_time
from modelium.store.upsert import put

BATCH = 1000
"""Rows that are read and written at once: a request log has a million."""

OWN = (schema.meta, schema.leases)
"""Tables that a new store has rows in, or may have."""


def carry(source: Engine, target: Engine) -> None:
    """Copy all rows of ``source`` into ``target``, an empty store of the same schema.

    It is one transaction: what fails has changed nothing.

    Raises:
        InputError: a service uses ``target``, it is not empty, or a row does not fit there.
    """
    with reading(source) as old, target.begin() as new:
        new.exec_driver_sql("SET LOCAL statement_timeout = 0")
        _check_unused(new, shown(target.url))
        put(new, schema.meta, [dict(row) for row in old.execute(sa.select(schema.meta)).mappings()])
        for table in schema.metadata.sorted_tables:
            if table not in OWN:
                _copy(old, new, table)


def _check_unused(tx: Connection, place: str) -> None:
    leases = schema.leases
    held = sa.select(leases.c.holder).where(leases.c.until > database_time(tx))
    if holder := tx.scalar(held.limit(1)):
        raise InputError(
            f"store.url: a Modelium service ({holder}) uses {place}; stop it, and try again after "
            "15 s"
        )
    for table in schema.metadata.sorted_tables:
        if table not in OWN and tx.scalar(sa.select(sa.literal(1)).select_from(table).limit(1)):
            raise InputError(
                f"store.url: {place} has rows in {table.name}; a store is carried over into an "
                "empty database alone: make a new one"
            )


def _copy(old: Connection, new: Connection, table: sa.Table) -> None:
    # NULL is to be NULL there, too, not the JSON document `null`.
    columns = [
        sa.column(c.name, sa.JSON(none_as_null=True) if isinstance(c.type, sa.JSON) else c.type)
        for c in table.columns
    ]
    insert = sa.insert(sa.table(table.name, *columns))
    rows = old.execution_options(yield_per=BATCH).execute(sa.select(table)).mappings()
    try:
        for part in rows.partitions():
            new.execute(insert, [dict(row) for row in part])
    except sa.exc.DBAPIError as exc:
        why = " ".join(str(exc.orig).split())
        raise InputError(
            f"a row of {table.name} does not fit into PostgreSQL ({why}); nothing was carried over"
        ) from exc
    for column in table.columns:
        if column.autoincrement is True:
            last = sa.select(sa.func.max(column)).scalar_subquery()
            counter = sa.func.pg_get_serial_sequence(table.name, column.name)
            new.execute(sa.select(sa.func.setval(counter, last)).where(last.is_not(None)))
