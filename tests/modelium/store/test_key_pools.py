"""Limits of keys in the store, where several gateways take from them at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelium.models.key_pools import SLOTS_S, Ask
from modelium.store import Store, key_pools

RATE = Ask(per_minute=60, wanted=7)


class Time:
    """The database's clock."""

    now = 1000.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(key_pools, "database_time", lambda _: clock.now)
    return clock


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url, now=lambda: 1000.0)
    yield opened
    opened.close()


def test_gateways_that_ask_at_once_never_get_more_than_there_is(store: Store, time: Time) -> None:
    def ask(number: int) -> int:
        keys = ("a", "b") if number % 2 else ("b", "a")
        grants = store.key_pools.settle(dict.fromkeys(keys, RATE), gateway=f"n{number}")
        return grants["a"].tokens

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(ask, range(24)))
    assert sum(got) == 60
    grant = store.key_pools.settle({"a": RATE}, gateway="n")["a"]
    assert (grant.tokens, grant.retry_after_s) == (0, pytest.approx(1.0))
    time.now += 3
    assert store.key_pools.settle({"a": RATE}, gateway="n")["a"].tokens == 3


def test_what_is_given_back_is_there_for_others(store: Store, time: Time) -> None:
    assert store.key_pools.settle({"a": Ask(per_minute=6, wanted=6)}, gateway="x")["a"].tokens == 6
    store.key_pools.settle({"a": Ask(per_minute=6, returned=4)}, gateway="x")
    assert store.key_pools.settle({"a": Ask(per_minute=6, wanted=6)}, gateway="y")["a"].tokens == 4


def test_requests_in_flight_are_shared_and_end_with_a_gateway_that_is_gone(
    store: Store, time: Time
) -> None:
    def slots(gateway: str, wanted: int) -> int:
        asked = {"a": Ask(most=5, slots=wanted)}
        return store.key_pools.settle(asked, gateway=gateway)["a"].slots

    assert (slots("x", 3), slots("y", 4), slots("z", 1)) == (3, 2, 0)
    assert (slots("x", 1), slots("y", 4)) == (1, 4)
    time.now += SLOTS_S - 1
    assert slots("y", 4) == 4
    time.now += 2
    assert slots("z", 5) == 1, "x has not been heard of"


def test_a_key_that_nobody_uses_leaves_no_row(store: Store, time: Time) -> None:
    store.key_pools.settle({"a": RATE, "b": RATE}, gateway="x")
    store.prune()
    assert store.key_pools.settle({"a": RATE}, gateway="x")["a"].tokens == 7
    opened_later = Store(
        engine=store._engine, now=lambda: 1000.0 + 2 * 86_400, on_event=lambda _: None
    )
    opened_later.prune()
    with store._engine.connect() as tx:
        assert tx.exec_driver_sql("SELECT count(*) FROM key_pools").scalar() == 0
