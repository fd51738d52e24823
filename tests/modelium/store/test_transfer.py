"""A store in SQLite is carried over to PostgreSQL, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from modelium.errors import InputError
from modelium.store import Store, backup, schema
from modelium.store.connection import connect
from modelium.store.lease import Lease
from modelium.traffic.request_log import LoggedRequest
from tests.postgresql import Server

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("postgresql")]

Tables = dict[str, list[dict[str, Any]]]

VALUES: dict[type, Callable[[int], Any]] = {
    sa.JSON: lambda n: {"number": n, "text": f"\N{SNOWMAN}{n}", "list": [None, 1.5, True]},
    sa.Boolean: lambda n: bool(n % 2),
    sa.Float: lambda n: n + 0.1,
    sa.BigInteger: lambda n: 2**40 + n,
    sa.Integer: lambda n: n,
    sa.String: lambda n: f"{n}",
}


@pytest.fixture
def url(server: Server) -> str:
    return server.emptied()


@pytest.fixture
def file(sqlite_url: str, tmp_path: Path) -> Path:
    """A copy of a store with rows in every table, and without what may be missing in some."""
    engine = connect(sqlite_url)
    with engine.begin() as tx:
        for table in schema.metadata.sorted_tables:
            for number in range(1, 4):
                bare = [c.name for c in table.columns if c.nullable and number == 3]
                row = {c.name: value(c, number) for c in table.columns if c.name not in bare}
                tx.execute(sa.insert(table).values(row | dict.fromkeys(bare, sa.null())))
    engine.dispose()
    backup.write(sqlite_url, tmp_path / "copy")
    return tmp_path / "copy"


def value(column: sa.Column[Any], number: int) -> Any:
    kind = next(kind for kind in VALUES if isinstance(column.type, kind))
    return VALUES[kind](number)


def content(url: str) -> Tables:
    engine = connect(url)
    with engine.connect() as tx:
        found = {
            table.name: [
                dict(row)
                for row in tx.execute(sa.select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in schema.metadata.sorted_tables
        }
    engine.dispose()
    return found


def test_every_row_of_every_table_is_carried_over(url: str, file: Path) -> None:
    copied, old = backup.restore(url, file)
    assert (copied.versions, old) == (1, None)
    assert ":***@/" in copied.file
    there, here = content(url), content(f"sqlite:///{file}")
    assert here.pop("leases") and not there.pop("leases"), "services are not carried over"
    assert all(len(rows) >= 3 for rows in here.values())
    assert there == here
    engine = connect(url)
    with engine.connect() as tx:
        nulls = tx.scalars(sa.text("SELECT model FROM versions WHERE profile IS NULL")).all()
        assert nulls == ["3"], "as NULL, not as a document"
    engine.dispose()


def test_what_is_counted_goes_on_from_there(url: str, file: Path) -> None:
    backup.restore(url, file)
    with closing(Store.open(url, now=lambda: 9.0)) as store:
        assert store.events.append("x").id == 2**40 + 4
        store.history.log([LoggedRequest(9.0, "m", 1, 1, 1.0)])
        assert len(store.history.requests()) == 4


def in_use(url: str) -> None:
    engine = connect(url)
    assert Lease(engine=engine, name="node a", holder="machine a").take() is None
    engine.dispose()


def not_empty(url: str) -> None:
    with closing(Store.open(url, now=lambda: 1.0)) as store:
        store.nodes.issue_token()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            in_use,
            r"store.url: a Modelium service \(machine a\) uses postgresql://.*:\*\*\*@.*; stop",
        ),
        (not_empty, "has rows in join_tokens; a store is carried over into an empty database"),
    ],
)
def test_a_store_that_is_used_stays_as_it_is(
    url: str, file: Path, spoil: Callable[[str], None], told: str
) -> None:
    spoil(url)
    before = content(url)
    with pytest.raises(InputError, match=told):
        backup.restore(url, file)
    assert content(url) == before


def test_a_row_that_does_not_fit_leaves_nothing_behind(url: str, file: Path) -> None:
    """SQLite takes any number as an integer."""
    before = content(url)
    engine = connect(f"sqlite:///{file}")
    with engine.begin() as tx:
        tx.exec_driver_sql("UPDATE versions SET version = 1000000000000 WHERE version = 2")
    engine.dispose()
    with pytest.raises(InputError, match=r"a row of versions does not fit .*; nothing was carried"):
        backup.restore(url, file)
    assert content(url) == before


def test_what_is_no_copy_leaves_nothing_behind(url: str, tmp_path: Path) -> None:
    before = content(url)
    (tmp_path / "copy").write_bytes(b"this is no database" * 400)
    with pytest.raises(InputError, match="is no copy of a store"):
        backup.restore(url, tmp_path / "copy")
    assert content(url) == before
