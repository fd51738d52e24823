"""A change by one process wakes the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from threading import Event

import psycopg
import pytest

from modelium.store import Store, wakeup
from modelium.store.connection import connect
from tests.modelium.store.conftest import ON_POSTGRESQL
from tests.modelium.store.test_nodes import REPORT
from tests.postgresql import Server, pooler

on_postgresql = pytest.mark.parametrize("url", [ON_POSTGRESQL], indirect=True)


def change(store: Store) -> None:
    with store._change():
        pass


CHANGES: dict[str, Callable[[Store], object]] = {
    "change": lambda store: change(store),
    "question": lambda store: store.questions.ask("q", node="a", document={}),
    "answer": lambda store: store.questions.answer("open", {}),
}


class Calls:
    """Counts them, and lets a test wait for the next one."""

    def __init__(self) -> None:
        self.seen = 0
        self.next = Event()

    def __call__(self) -> None:
        self.seen += 1
        self.next.set()

    def wait(self) -> None:
        assert self.next.wait(60)
        self.next.clear()


@pytest.fixture
def told_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never poll."""
    monkeypatch.setattr(wakeup, "POLL_S", 3600.0)
    monkeypatch.setattr(wakeup, "REST_S", 0.0)


@on_postgresql
@pytest.mark.usefixtures("told_only")
def test_changes_questions_and_answers_are_told_to_all(url: str) -> None:
    calls = Calls()
    with (
        closing(Store.open(url, now=lambda: 1.0)) as one,
        closing(Store.open(url, now=lambda: 1.0)) as other,
    ):
        one.questions.ask("open", node="a", document={})
        with other.wakeups(calls):
            calls.wait()
            for seen, act in enumerate(CHANGES.values(), 2):
                act(one)
                calls.wait()
                assert calls.seen == seen


@on_postgresql
@pytest.mark.usefixtures("told_only")
def test_heartbeats_and_what_was_given_up_wake_nobody(url: str) -> None:
    calls = Calls()
    with closing(Store.open(url, now=lambda: 1.0)) as store, store.wakeups(calls):
        calls.wait()
        store.nodes.join("a", identity="i", token=None, report=REPORT)
        store.nodes.beat("a", identity="i", report=REPORT)
        with pytest.raises(ValueError), store._change():
            raise ValueError
        change(store)
        calls.wait()
        assert calls.seen == 2


@on_postgresql
@pytest.mark.usefixtures("told_only")
def test_a_connection_that_is_lost_is_replaced(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "PAUSE_S", 0.0)
    calls = Calls()
    with closing(Store.open(url, now=lambda: 1.0)) as store, store.wakeups(calls):
        calls.wait()
        of_the_store = f"datname = '{store._engine.url.database}'"
        for _ in range(2):
            server.sql(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of_the_store}"
            )
            store._engine.dispose()  # its own connections were ended, too
            change(store)
            calls.wait()


@on_postgresql
def test_behind_a_pooler_changes_are_seen_by_looking(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "POLL_S", 0.0)
    calls, name = Calls(), str(connect(url).url.database)
    with pooler(server) as socket:
        behind = server.url(name, host=socket)
        for place, direct in ((url, True), (behind, False)):
            with psycopg.connect(place, autocommit=True, prepare_threshold=None) as session:
                assert wakeup.is_direct(session) is direct
        with closing(Store.open(behind, now=lambda: 1.0)) as store, store.wakeups(calls):
            calls.wait()
            for act in (CHANGES["question"], CHANGES["change"]):
                act(store)
                calls.wait()


def test_sqlite_has_nobody_to_tell(sqlite_url: str) -> None:
    calls = Calls()
    with closing(Store.open(sqlite_url, now=lambda: 1.0)) as store:
        before = threading.active_count()
        with store.wakeups(calls):
            assert threading.active_count() == before
            change(store)
        assert calls.seen == 0
