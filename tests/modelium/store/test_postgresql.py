"""What PostgreSQL does otherwise than SQLite: a real server, and PgBouncer before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from modelium.errors import InputError, StoreUnavailable
from modelium.models import Priority
from modelium.store import Store, postgresql
from modelium.store.async_store import WORKERS
from modelium.store.connection import connect, reading
from modelium.store.faults import place
from modelium.traffic.request_log import LoggedRequest
from tests.modelium.store.test_store import PROFILE
from tests.postgresql import Server, pooler, server

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("postgresql")]


@pytest.fixture
def url(server: Server) -> str:
    return server.database()


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = connect(url)
    yield made
    made.dispose()


def opened(url: str) -> Store:
    return Store.open(url, now=lambda: 1.0)


def register(store: Store, name: str, version: int = 1, **given: Any) -> None:
    terms: dict[str, Any] = {
        "team": "t", "priority": Priority.LOW, "priority_ceiling": Priority.HIGH, "pinned": False,
    }  # fmt: skip
    store.register(name, path=Path(f"/{name}@{version}"), digest=f"{version}", **terms, **given)


# --- the server goes away -----------------------------------------------------------------


def test_a_server_that_was_killed_is_a_sentence_and_is_used_again_when_it_is_back() -> None:
    with server() as own:
        url = own.database()
        with closing(opened(url)) as store, store.exclusive():
            store.events.append("before")
            own.kill()
            for call in (store.events.newest, lambda: store.events.append("during")):
                with pytest.raises(StoreUnavailable, match="cannot be reached") as told:
                    call()
                assert told.value.reason == "store-unreachable"
                assert str(told.value).endswith("; Modelium goes on by itself afterwards")
                assert own.password not in str(told.value)
            own.start()
            store.events.append("after")
            assert [event.kind for event in store.events.newest()] == ["after", "before"]


def test_a_transaction_that_the_server_took_with_it_has_changed_nothing() -> None:
    with server() as own:
        engine = connect(own.database())
        with pytest.raises(StoreUnavailable, match="cannot be reached"), engine.begin() as tx:
            tx.exec_driver_sql("UPDATE meta SET value = 7")
            own.kill()
        own.start()
        with reading(engine) as tx:
            assert tx.exec_driver_sql("SELECT count(*) FROM meta WHERE value = 7").scalar_one() == 0
        engine.dispose()


# --- a pooler in transaction mode ---------------------------------------------------------


def test_many_writers_and_readers_share_two_sessions_of_a_pooler(server: Server) -> None:
    name = server.database().partition("@/")[2].partition("?")[0]
    with pooler(server) as socket:
        url = server.url(name, host=socket)
        stores = [opened(url), opened(url)]
        register(stores[0], "a")

        def work(number: int) -> None:
            store = stores[number % 2]
            for turn in range(5):
                store.rules.set_pinned("a", bool(turn % 2))
                store.view()
                store.history.record_memory({}, {})

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert stores[0].revision() == 40 + 1
        assert stores[0].view() == stores[1].view()
        for store in stores:
            store.close()


def test_a_second_service_is_refused_behind_a_pooler(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelium.store.exclusive.RENEWAL_S", 0.0)
    name = server.database().partition("@/")[2].partition("?")[0]
    with pooler(server) as socket:
        url = server.url(name, host=socket)
        with (
            closing(opened(url)) as first,
            closing(opened(url)) as second,
            first.exclusive(),
            pytest.raises(InputError, match="another Modelium service"),
            second.exclusive(),
        ):
            raise AssertionError("never held twice")


# --- bounds -------------------------------------------------------------------------------


def bounds(tx: sa.Connection) -> list[str]:
    names = ("statement_timeout", "lock_timeout", "transaction_isolation", "transaction_read_only")
    return [str(tx.exec_driver_sql(f"SHOW {name}").scalar_one()) for name in names]


def test_each_transaction_has_its_bounds_whatever_the_roles_are(
    server: Server, url: str, engine: sa.Engine
) -> None:
    name = engine.url.database
    server.sql(f"ALTER DATABASE {name} SET statement_timeout = '7s'")
    with engine.begin() as tx:
        assert bounds(tx) == ["30s", "10s", "read committed", "off"]
    with reading(engine) as tx:
        assert bounds(tx) == ["30s", "0", "repeatable read", "on"]
    with engine.begin() as tx:
        assert bounds(tx) == ["30s", "10s", "read committed", "off"], "nothing is left of a reading"


def test_a_writer_waits_for_another_one_beyond_the_roles_statement_timeout(
    server: Server, url: str, engine: sa.Engine
) -> None:
    server.sql(f"ALTER DATABASE {engine.url.database} SET statement_timeout = '20ms'")
    with closing(opened(url)) as store:
        with engine.begin():
            waiting = Thread(target=lambda: store.events.append("x"))
            waiting.start()
            with psycopg.connect(server.url("postgres"), autocommit=True) as other:
                while not other.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"
                    " AND clock_timestamp() - query_start > interval '200 ms'"
                ).fetchone():
                    assert waiting.is_alive()
        waiting.join()
        assert len(store.events.newest()) == 1


def test_a_writer_that_holds_the_lock_for_long_is_a_locked_store(
    url: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(url)) as store:
        quick = postgresql.WRITE.replace("lock_timeout = '10s'", "lock_timeout = '1ms'")
        monkeypatch.setattr(postgresql, "WRITE", quick)
        with engine.begin(), pytest.raises(StoreUnavailable, match="locked by another") as told:
            store.events.append("x")
        assert told.value.reason == "store-locked"
        store.events.append("x")
        assert len(store.events.newest()) == 1


def test_as_many_sessions_as_threads_are_opened_and_few_are_kept(server: Server, url: str) -> None:
    def count() -> int:
        with psycopg.connect(server.url("postgres")) as other:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            row = other.execute(query, [sa.make_url(url).database]).fetchone()
            assert row is not None
            return int(row[0])

    engine = connect(url)
    all_read, counted = Barrier(2 * WORKERS + 1), Barrier(2 * WORKERS + 1)

    def read() -> None:
        with reading(engine):
            all_read.wait()
            counted.wait()

    threads = [Thread(target=read) for _ in range(2 * WORKERS)]
    for thread in threads:
        thread.start()
    all_read.wait()
    assert count() == 2 * WORKERS
    counted.wait()
    for thread in threads:
        thread.join()
    while count() > postgresql.POOL:  # the server ends sessions in its own time
        pass
    assert count() == postgresql.POOL
    engine.dispose()


def test_options_in_the_url_go_before_ours(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def note(**options: Any) -> None:
        seen.update(options)
        raise psycopg.OperationalError("seen")

    monkeypatch.setattr(psycopg, "connect", lambda *_, **options: note(**options))
    with pytest.raises(StoreUnavailable), connect(f"{url}&connect_timeout=2").connect():
        pass
    assert seen["connect_timeout"] == "2"
    assert (seen["tcp_user_timeout"], seen["prepare_threshold"]) == (25_000, None)


# --- what a column takes ------------------------------------------------------------------


def test_a_twin_of_the_longest_name_has_a_row(url: str) -> None:
    with closing(opened(url)) as store:
        register(store, "n" * 128, profile=PROFILE)
        assert store.twins.stand_by("n" * 128).name == "n" * 128 + "@1"


def test_names_sort_as_they_do_on_sqlite(url: str) -> None:
    with closing(opened(url)) as store:
        for name in ("b", "a", "B", "a-1", "a_1", "aa"):
            register(store, name)
        assert [m.name for m in store.view()[1]] == ["B", "a", "a-1", "a_1", "aa", "b"]


def test_text_that_no_column_takes_is_stored_without_it(url: str) -> None:
    with closing(opened(url)) as store:
        profile = PROFILE.model_copy(update={"architecture": "a\0b\ud800c\N{SNOWMAN}"})
        register(store, "a", profile=profile)
        store.states.mark_unservable("a", reason="no\0good")
        model = store.model("a")
        assert model.reason == "no\ufffdgood"
        assert model.profile is not None
        assert model.profile.architecture == "a\ufffdb\ufffdc\N{SNOWMAN}"
        with reading(store._engine) as tx:
            looked = tx.exec_driver_sql("SELECT profile ->> 'format' FROM versions").scalar_one()
        assert looked == "onnx"
        lines = [LoggedRequest(at=1.0, model=m, prompt_tokens=1, generated_tokens=1, latency_s=1.0)
                 for m in ("a\0", "b")]  # fmt: skip
        store.history.log(lines)
        assert [line.model for line in store.history.requests()] == ["a\ufffd", "b"]


@pytest.mark.parametrize(
    ("document", "stored"),
    [
        ({"a\0": ["\0", ("\udfff", 1)], "b": None}, {"a\ufffd": ["\ufffd", ["\ufffd", 1]], "b": None}),
        ({"a": r"\u0000 \ud800 is text"}, {"a": r"\u0000 \ud800 is text"}),
        ({"a": "\N{GRINNING FACE}\n"}, {"a": "\N{GRINNING FACE}\n"}),
        ([True, 1.5], [True, 1.5]),
    ],
)  # fmt: skip
def test_a_document_loses_what_postgresql_cannot_read_back(document: Any, stored: Any) -> None:
    assert json.loads(postgresql.dumps(document)) == stored


def test_events_and_requests_are_counted_beyond_two_billion(server: Server, url: str) -> None:
    name = sa.make_url(url).database
    assert name is not None
    sequences = [f"{table}_id_seq" for table in ("events", "requests")]
    server.sql(*(f"ALTER SEQUENCE {s} RESTART 3000000000" for s in sequences), database=name)
    with closing(opened(url)) as store:
        assert store.events.append("x").id == 3_000_000_000
        line = LoggedRequest(at=1.0, model="a", prompt_tokens=1, generated_tokens=1, latency_s=1.0)
        store.history.log([line])
        assert store.history.requests() == [line]
        assert store.events.newest(after=2_999_999_999)[0].kind == "x"


# --- passwords and other mistakes ---------------------------------------------------------


@pytest.mark.parametrize("way", ["file", "environment"])
def test_the_password_may_be_in_a_file_or_the_environment(
    server: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    bare = url.replace(f":{server.password}@", "@")
    with pytest.raises(InputError, match="no password supplied"):
        opened(bare)
    if way == "file":
        file = tmp_path / "pgpass"
        file.write_text(f"*:*:*:*:{server.password}\n")
        file.chmod(0o600)
        bare += f"&passfile={file}"
    else:
        monkeypatch.setenv("PGPASSWORD", server.password)
    opened(bare).close()


def test_a_password_is_never_shown(server: Server, url: str) -> None:
    wrong = server.url(sa.make_url(url).database or "", password="s3cret")
    for given in (wrong, wrong.replace(":s3cret@", "@") + "&password=s3cret"):
        with pytest.raises(InputError, match="password authentication failed") as told:
            opened(given)
        assert "s3cret" not in str(told.value)
        assert "s3cret" not in place(connect(given))


def test_a_database_that_is_not_there_is_one_sentence(server: Server) -> None:
    with pytest.raises(InputError, match=r"cannot be opened: .*database \"none\" does not exist$"):
        opened(server.url("none"))


def test_a_standby_that_takes_no_writes_is_one_sentence(server: Server, url: str) -> None:
    with closing(opened(url)) as store:
        server.sql(
            f"ALTER DATABASE {sa.make_url(url).database} SET default_transaction_read_only=on"
        )
        store._engine.dispose()
        with pytest.raises(StoreUnavailable, match="read-only transaction") as told:
            store.events.append("x")
        assert told.value.reason == "store-failing"
        assert store.events.newest() == []


def test_a_bug_stays_what_it_is(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match="does not exist"), engine.connect() as tx:
        tx.exec_driver_sql("SELECT * FROM nowhere")
