"""Insert or update by primary key: run on SQLite, compiled for PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

from modelium.store.upsert import Rows, add, put, put_missing

TABLE = sa.Table(
    "counts",
    sa.MetaData(),
    sa.Column("model", sa.String(16), primary_key=True),
    sa.Column("hour", sa.Integer, primary_key=True),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
)
OLD = {"model": "a", "hour": 1, "requests": 10, "failed": 1}
SAME_KEY = {"model": "a", "hour": 1, "requests": 5, "failed": 2}
OTHER_KEY = {"model": "a", "hour": 2, "requests": 7, "failed": 0}

Upsert = Callable[[Connection, sa.Table, Rows], None]


@pytest.fixture
def tx() -> Iterator[Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        TABLE.metadata.create_all(connection)
        connection.execute(sa.insert(TABLE), [OLD])
        yield connection


def rows(tx: Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in tx.execute(sa.select(TABLE).order_by(TABLE.c.hour)).mappings()]


@pytest.mark.parametrize(
    ("upsert", "same_key"),
    [(put, SAME_KEY), (put_missing, OLD), (add, OLD | {"requests": 15, "failed": 3})],
)
def test_a_row_of_the_same_key_is_replaced_left_or_added_to(
    tx: Connection, upsert: Upsert, same_key: dict[str, Any]
) -> None:
    upsert(tx, TABLE, [SAME_KEY, OTHER_KEY])
    assert rows(tx) == [same_key, OTHER_KEY]


@pytest.mark.parametrize("upsert", [put, put_missing, add])
def test_no_rows_change_nothing(tx: Connection, upsert: Upsert) -> None:
    upsert(tx, TABLE, [])
    assert rows(tx) == [OLD]


def test_put_leaves_columns_that_are_not_given(tx: Connection) -> None:
    tx.exec_driver_sql("create table sparse (model text primary key, a int default 0, b int)")
    sparse = sa.Table("sparse", sa.MetaData(), autoload_with=tx)
    put(tx, sparse, [{"model": "m", "a": 1, "b": 2}])
    put(tx, sparse, [{"model": "m", "a": 3}])
    assert tx.execute(sa.select(sparse)).one() == ("m", 3, 2)


class PostgresStatements:
    """A connection that compiles statements for PostgreSQL and runs none."""

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def execute(self, statement: Any, rows: Rows) -> None:
        self.compiled.append(" ".join(str(statement.compile(dialect=self.dialect)).split()))


@pytest.mark.parametrize(
    ("upsert", "ending"),
    [
        (
            put,
            "ON CONFLICT (model, hour) DO UPDATE SET requests = excluded.requests, "
            "failed = excluded.failed",
        ),
        (put_missing, "ON CONFLICT (model, hour) DO NOTHING"),
        (
            add,
            "ON CONFLICT (model, hour) DO UPDATE SET "
            "requests = (counts.requests + excluded.requests), "
            "failed = (counts.failed + excluded.failed)",
        ),
    ],
)
def test_postgresql_gets_the_same_statement(upsert: Upsert, ending: str) -> None:
    statements = PostgresStatements()
    upsert(cast(Connection, statements), TABLE, [SAME_KEY])
    (statement,) = statements.compiled
    assert statement.startswith("INSERT INTO counts (model, hour, requests, failed) VALUES ")
    assert statement.endswith(ending)
