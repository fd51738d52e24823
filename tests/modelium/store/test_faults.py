"""What the database's own errors become."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from modelium.errors import StoreUnavailable, TransientError
from modelium.store import Store, connection
from modelium.store.connection import connect


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
