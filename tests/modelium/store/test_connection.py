"""How the store connects to its database."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy as sa

from modelium.errors import InputError
from modelium.store import Store
from modelium.store.connection import connect, migrate, secret_files
from modelium.store.schema import metadata


def test_a_sqlite_file_is_made_with_its_folder(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/state/deeper/modelium.db")
    migrate(engine)
    assert (tmp_path / "state" / "deeper" / "modelium.db").exists()
    assert set(sa.inspect(engine).get_table_names()) >= set(metadata.tables)
    engine.dispose()


def test_the_database_is_this_users_alone_also_where_it_was_not(tmp_path: Path) -> None:
    (tmp_path / "old.db").touch(mode=0o644)
    for name in ("old", "new"):
        store = Store.open(f"sqlite:///{tmp_path}/{name}.db", now=lambda: 1.0)
        with store.exclusive():
            store.events.append("x")
            modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.glob(f"{name}.db*")}
        store.close()
        assert set(modes) == {f"{name}.db{end}" for end in ("", "-wal", "-shm", ".lock")}
        assert set(modes.values()) == {0o600}, modes


def test_sqlite_readers_do_not_block_writers_and_keys_are_enforced(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    with engine.connect() as tx:
        assert tx.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert tx.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()


def test_a_transaction_holds_the_write_lock_from_its_beginning(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    migrate(engine)
    other = sa.create_engine(sqlite_url, connect_args={"timeout": 0})
    with engine.begin() as tx:
        tx.execute(sa.select(metadata.tables["meta"]))
        with pytest.raises(sa.exc.OperationalError, match="locked"), other.begin() as second:
            second.exec_driver_sql("UPDATE meta SET value = value")
    with other.begin() as second:
        second.exec_driver_sql("UPDATE meta SET value = value")
    engine.dispose()
    other.dispose()


def test_two_services_may_migrate_at_once(empty_url: str) -> None:
    engines = [connect(empty_url), connect(empty_url)]
    failures: list[BaseException] = []

    def run(engine: sa.Engine) -> None:
        try:
            migrate(engine)
        except BaseException as exc:
            failures.append(exc)

    threads = [Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(sa.inspect(engines[0]).get_table_names()) >= set(metadata.tables)
    for engine in engines:
        engine.dispose()


def test_a_missing_driver_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        InputError, match=r"package psycopg is missing; install .* extra `postgres`"
    ):
        connect("postgresql://me:s3cret@db/modelium")


@pytest.mark.parametrize(
    "url", ["modelium.db", "oracle9i://me:s3cret@db/x", "mysql://me:s3cret@db/x"]
)
def test_what_is_no_database_is_an_input_error_without_its_password(url: str) -> None:
    with pytest.raises(InputError, match=r"store\.url: not a database; allowed: ") as refused:
        connect(url)
    assert "s3cret" not in str(refused.value)


def test_a_folder_that_cannot_be_made_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"store\.url: cannot make /proc/modelium"):
        connect("sqlite:////proc/modelium/modelium.db")


def test_a_database_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "modelium.db").mkdir()
    with pytest.raises(InputError, match=r"cannot be opened: unable to open database file$"):
        Store.open(f"sqlite:///{tmp_path}/modelium.db", now=lambda: 1.0)


def test_the_files_that_open_a_store_are_named_whoever_says_so() -> None:
    database = [Path(f"/db/x.db{end}") for end in ("", "-wal", "-shm", "-journal")]
    assert secret_files("sqlite:////db/x.db", {"PGPASSFILE": "/p"}) == database
    assert secret_files("postgresql://me@db/x", {"HOME": "/h"}) == []
    url = "postgresql://me@db/x?passfile=/a/pass&sslkey=/a/key&sslcert=/a/cert"
    assert secret_files(url, {}) == [Path("/a/pass"), Path("/a/key")]
    given = {"PGPASSFILE": "/b/pass", "PGSSLKEY": "key"}
    assert secret_files("postgresql://me@db/x", given) == [Path("/b/pass"), Path.cwd() / "key"]
