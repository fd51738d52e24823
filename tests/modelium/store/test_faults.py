"""What the database's own errors become."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from modelium.errors import InputError, StoreUnavailable, TransientError
from modelium.store import Store, connection, faults
from modelium.store.connection import connect
from modelium.store.faults import Fault


@contextmanager
def write_locked(file: Path) -> Iterator[None]:
    """Hold the database's write lock on a connection of its own."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.0)


@contextmanager
def full(store: Store) -> Iterator[None]:
    """Have the database grow no further, which SQLite reports as it reports a full disk."""

    def limit(dbapi: sqlite3.Connection, *_: object) -> None:
        dbapi.execute("PRAGMA max_page_count=1")  # SQLite takes the pages that there are

    pool = store._engine.pool
    sa.event.listen(pool, "checkout", limit)
    yield
    sa.event.remove(pool, "checkout", limit)


@pytest.mark.usefixtures("impatient")
def test_a_locked_store_is_a_transient_error_with_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "modelium.db"
    with closing(Store.open(f"sqlite:///{file}", now=lambda: 1.0)) as store:
        with write_locked(file), pytest.raises(TransientError) as told:
            store.events.append("model.ready", model="a")
        assert isinstance(told.value, StoreUnavailable)
        assert told.value.reason == "store-locked"
        assert str(told.value).startswith(f"the store {file} is locked by another process; ")
        store.events.append("model.ready", model="a")
        assert len(store.events.newest()) == 1


def test_a_full_disk_is_one_sentence_and_heals(tmp_path: Path) -> None:
    file = tmp_path / "modelium.db"
    with closing(Store.open(f"sqlite:///{file}", now=lambda: 1.0)) as store:
        with full(store), pytest.raises(StoreUnavailable, match=r"disk of the store .* is full: "):
            store.events.append("model.ready", model="a", text="x" * 100_000)
        assert store.events.newest() == []
        store.events.append("model.ready", model="a", text="x" * 100_000)
        assert len(store.events.newest()) == 1


def test_a_store_that_vanished_is_a_sentence_and_is_opened_again(tmp_path: Path) -> None:
    folder, aside = tmp_path / "state", tmp_path / "aside"
    with closing(Store.open(f"sqlite:///{folder}/modelium.db", now=lambda: 1.0)) as store:
        store.events.append("model.ready")
        store._engine.dispose()
        os.rename(folder, aside)
        with pytest.raises(StoreUnavailable, match=r"cannot be reached \(unable to open"):
            store.events.append("model.ready")
        os.rename(aside, folder)
        store.events.append("model.ready")
        assert len(store.events.newest()) == 2


def test_a_damaged_store_is_a_sentence_that_names_the_way_back(tmp_path: Path) -> None:
    file = tmp_path / "modelium.db"
    with closing(Store.open(f"sqlite:///{file}", now=lambda: 1.0)) as store:
        store._engine.dispose()
        file.write_bytes(b"this is no database" * 1000)
        with pytest.raises(StoreUnavailable, match=r"is damaged .* `modelium restore`"):
            store.events.append("model.ready")


def test_a_bug_stays_what_it_is(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/modelium.db")
    with pytest.raises(sa.exc.OperationalError, match="no such table"), engine.connect() as tx:
        tx.exec_driver_sql("SELECT * FROM nowhere")
    engine.dispose()


@pytest.mark.usefixtures("impatient")
def test_a_locked_store_is_no_wrong_configuration_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "modelium.db"
    sqlite3.connect(file).close()
    with write_locked(file), pytest.raises(StoreUnavailable, match="locked by another process"):
        Store.open(f"sqlite:///{file}", now=lambda: 1.0)


def context(error: BaseException, **given: Any) -> Any:
    found = {"original_exception": error, "is_disconnect": False, "sqlalchemy_exception": None}
    return SimpleNamespace(**{**found, **given})


def of_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("no")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("free", [faults.LEAST_FREE_BYTES, faults.LEAST_FREE_BYTES - 1])
@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (sqlite3.SQLITE_BUSY, Fault.LOCKED),
        (sqlite3.SQLITE_BUSY | 2 << 8, Fault.LOCKED),
        (sqlite3.SQLITE_FULL, Fault.FULL),
        (sqlite3.SQLITE_IOERR | 3 << 8, Fault.FAILING),
        (sqlite3.SQLITE_CANTOPEN, Fault.UNREACHABLE),
        (sqlite3.SQLITE_CORRUPT, Fault.DAMAGED),
        (sqlite3.SQLITE_ERROR, None),
    ],
)
def test_an_error_of_sqlite_is_told_by_its_code_and_the_space_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fault: Fault | None, free: int
) -> None:
    asked: list[str] = []

    def usage(folder: str) -> Any:
        asked.append(folder)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/modelium.db")
    unclear = fault in (Fault.FAILING, Fault.UNREACHABLE)
    full = unclear and free < faults.LEAST_FREE_BYTES
    assert faults._fault(engine, context(of_sqlite(code))) is (Fault.FULL if full else fault)
    assert asked == ([str(tmp_path)] if unclear else [])


def test_space_that_cannot_be_asked_for_is_not_the_problem(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/gone/modelium.db", "sqlite://", "sqlite:///here.db"):
        assert not faults._is_full(sa.create_engine(url))


class OfPostgresql(Exception):
    """An error of psycopg, with the server's code where it came from the server."""

    def __init__(self, sqlstate: str | None) -> None:
        self.sqlstate = sqlstate


OPERATIONAL = sa.exc.OperationalError("", {}, Exception())


@pytest.mark.parametrize(
    ("code", "given", "fault"),
    [
        (None, {"is_disconnect": True}, Fault.UNREACHABLE),
        (None, {"sqlalchemy_exception": OPERATIONAL}, Fault.UNREACHABLE),
        (None, {"sqlalchemy_exception": sa.exc.IntegrityError("", {}, Exception())}, None),
        (None, {}, None),
        ("22003", {"sqlalchemy_exception": OPERATIONAL}, None),
        ("22003", {"is_disconnect": True}, Fault.UNREACHABLE),
        ("40P01", {}, Fault.LOCKED),
        ("55P03", {}, Fault.LOCKED),
        ("55000", {}, None),
        ("53100", {}, Fault.FULL),
        ("53200", {}, Fault.FAILING),
        ("53300", {}, Fault.UNREACHABLE),
        ("08006", {}, Fault.UNREACHABLE),
        ("28P01", {}, Fault.UNREACHABLE),
        ("3D000", {}, Fault.UNREACHABLE),
        ("57P01", {}, Fault.UNREACHABLE),
        ("57014", {}, Fault.FAILING),
        ("58030", {}, Fault.FAILING),
        ("25006", {}, Fault.FAILING),
        ("42501", {}, Fault.FAILING),
        ("42P01", {}, None),
        ("XX001", {}, Fault.DAMAGED),
        ("XX002", {}, Fault.DAMAGED),
        ("XX000", {}, None),
    ],
)
def test_an_error_of_postgresql_is_told_by_its_code(
    code: str | None, given: dict[str, Any], fault: Fault | None
) -> None:
    other: Any = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"))
    assert faults._fault(other, context(OfPostgresql(code), **given)) is fault
    assert faults._fault(sa.create_engine("sqlite://"), context(OSError("reset"), **given)) is None


def test_a_damaged_store_names_the_way_back_of_its_database() -> None:
    url = sa.make_url("postgresql+psycopg://me@db/x?password=s3cret&sslpassword=s3cret&a=b")
    other: Any = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), url=url)
    assert str(faults.unavailable(other, Fault.DAMAGED, why="bad page")) == (
        "the store postgresql://me@db/x?a=b is damaged (bad page): stop Modelium and go back to a "
        "backup with `pg_restore`"
    )
    here = faults.unavailable(sa.create_engine("sqlite:////x.db"), Fault.DAMAGED, why="bad page")
    assert str(here).endswith(
        "(bad page): stop Modelium and go back to a backup with `modelium restore`"
    )


def test_a_store_is_told_by_its_file_or_by_its_url_without_the_password() -> None:
    assert faults.place(sa.create_engine("sqlite:////data/modelium.db")) == "/data/modelium.db"
    assert faults.place(sa.create_engine("sqlite://")) == ":memory:"
    url = sa.make_url("postgresql://me:s3cret@db/modelium")
    other: Any = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), url=url)
    assert faults.place(other) == "postgresql://me:***@db/modelium"


def test_a_store_of_a_newer_modelium_cannot_be_opened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/modelium.db"
    Store.open(url, now=lambda: 1.0).close()
    with closing(sqlite3.connect(tmp_path / "modelium.db")) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        newer.execute("UPDATE meta SET value = 9999 WHERE key = 'since'")
        newer.commit()
    with pytest.raises(
        InputError,
        match=r"^store\.url: .* cannot be opened: a newer Modelium has changed its tables",
    ):
        Store.open(url, now=lambda: 1.0)
