"""Insert or update by primary key, as SQLite and PostgreSQL do it in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

Rows = Sequence[Mapping[str, Any]]
"""All with the same columns, the primary key among them."""


def put(tx: Connection, table: sa.Table, rows: Rows) -> None:
    """Insert ``rows``; where one is there already, replace its other columns."""
    if rows:
        insert = _insert(tx, table)
        fresh = {name: insert.excluded[name] for name in _values(table, rows)}
        tx.execute(insert.on_conflict_do_update(index_elements=_key(table), set_=fresh), rows)


def put_missing(tx: Connection, table: sa.Table, rows: Rows) -> None:
    """Insert those of ``rows`` that are not there yet."""
    if rows:
        tx.execute(_insert(tx, table).on_conflict_do_nothing(index_elements=_key(table)), rows)


def add(tx: Connection, table: sa.Table, rows: Rows) -> None:
    """Insert ``rows``; where one is there already, add to its other columns."""
    if rows:
        insert = _insert(tx, table)
        sums = {name: table.c[name] + insert.excluded[name] for name in _values(table, rows)}
        tx.execute(insert.on_conflict_do_update(index_elements=_key(table), set_=sums), rows)


def _insert(tx: Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    if tx.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _key(table: sa.Table) -> list[str]:
    return [column.name for column in table.primary_key]


def _values(table: sa.Table, rows: Rows) -> list[str]:
    return [name for name in rows[0] if not table.c[name].primary_key]
