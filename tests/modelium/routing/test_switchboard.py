"""Opening, closing, draining and refusing."""

from __future__ import annotations

import asyncio

import pytest

from modelium.errors import LoadFailed, Unavailable, UnknownModel
from tests.fakes.routing import Listener, Waits
from tests.modelium.routing.conftest import HERE, THERE, board, one, pending, until, waiter


async def test_all_who_wait_are_admitted_when_it_opens() -> None:
    waits = Waits()
    at = board(waits=waits)
    async with waiter(at) as first, waiter(at) as second:
        at.open("m", HERE)
        assert await asyncio.gather(first, second) == [HERE, HERE]
    assert waits.cold_starts == ["m"]
    assert pending(at) == 0


async def test_opening_for_nobody_is_no_cold_start() -> None:
    waits = Waits()
    at = board(waits=waits)
    at.open("m", HERE)
    assert waits.cold_starts == []


async def test_request_that_arrives_during_an_unload_waits_and_asks_again_after_it() -> None:
    listener = Listener()
    at = board(listener=listener)
    at.open("m", HERE)
    async with at.admit("m"):
        at.close("m")
        async with waiter(at) as late:
            assert not await at.drained("m", timeout_s=0.01)
            assert listener.demanded
            listener.demanded.clear()
            await until(lambda: bool(listener.demanded))
            at.open("m", THERE)
            assert await late == THERE


async def test_drained_returns_when_the_last_request_in_flight_ends() -> None:
    at = board()
    at.open("m", HERE)
    inside, leave = asyncio.Event(), asyncio.Event()

    async def request() -> None:
        async with at.admit("m"):
            inside.set()
            await leave.wait()

    requests = [asyncio.create_task(request()) for _ in range(3)]
    await inside.wait()
    at.close("m")
    drains = [asyncio.create_task(at.drained("m", timeout_s=20)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(drain.done() for drain in drains)
    leave.set()
    assert await asyncio.gather(*drains) == [True, True]
    await asyncio.gather(*requests)


async def test_drain_that_timed_out_can_be_waited_for_again() -> None:
    at = board()
    at.open("m", HERE)
    async with at.admit("m"):
        assert not await at.drained("m", timeout_s=0)
    assert await at.drained("m", timeout_s=0)
    assert await at.drained("never-seen", timeout_s=0)


async def test_opened_and_closed_before_a_waiter_ran_keeps_it_waiting() -> None:
    at = board()
    async with waiter(at) as held:
        at.open("m", HERE)
        at.close("m")
        await asyncio.sleep(10.0)
        assert not held.done()
        at.open("m", THERE)
        assert await held == THERE


async def test_reopened_elsewhere_routes_there() -> None:
    at = board()
    at.open("m", HERE)
    at.open("m", THERE)
    assert at.upstream("m") == await one(at) == THERE
    at.close("m")
    assert at.upstream("m") is None


async def test_reason_does_not_outlive_the_load() -> None:
    at = board(max_wait_s=30.0)
    at.expect("m", ready_in_s=12.5, reason="queued behind n")
    at.open("m", HERE)
    at.close("m")
    with pytest.raises(Unavailable) as told:
        await one(at)
    assert "queued" not in str(told.value)


async def test_refusal_reaches_those_who_wait_and_nobody_later() -> None:
    at = board()
    async with waiter(at) as first, waiter(at) as second:
        at.refuse("m", LoadFailed("no room on any GPU"), retry_after_s=60)
        for held in (first, second):
            with pytest.raises(Unavailable, match="no room on any GPU") as told:
                await held
            assert told.value.retry_after_s == 60
            assert told.value.reason == "unknown"
        assert first.exception() is not second.exception()
    async with waiter(at) as later:
        at.open("m", HERE)
        assert await later == HERE


async def test_refusing_all_reaches_waiters_of_every_model() -> None:
    at = board()
    async with waiter(at, "m") as first, waiter(at, "n") as second:
        at.refuse_all(Unavailable("shutting down"), retry_after_s=1)
        for held in (first, second):
            with pytest.raises(Unavailable, match="shutting down"):
                await held


async def test_model_that_ceases_to_exist_is_unknown_to_those_who_wait() -> None:
    at = board()
    async with waiter(at) as held:
        at.know(["n"])
        with pytest.raises(UnknownModel):
            await held
    with pytest.raises(UnknownModel):
        await one(at)


async def test_open_model_stays_known_to_an_older_list() -> None:
    at = board()
    at.open("new", HERE)
    at.know(["m"])
    assert await one(at, "new") == HERE
    at.close("new")
    async with waiter(at, "new"):
        pass


async def test_concurrent_swaps_never_let_a_request_into_a_closed_model() -> None:
    at = board(max_waiting_per_model=1000, max_waiting=1000)
    loaded = False

    async def request() -> None:
        async with at.admit("m"):
            assert loaded
            await asyncio.sleep(0.001)
            assert loaded

    async def cycle() -> None:
        nonlocal loaded
        for _ in range(20):
            loaded = True
            at.open("m", HERE)
            await asyncio.sleep(0.002)
            at.close("m")
            assert await at.drained("m", timeout_s=20)
            loaded = False
            await asyncio.sleep(0)
        loaded = True
        at.open("m", HERE)

    async def arrivals() -> None:
        for _ in range(40):
            await asyncio.gather(*(request() for _ in range(5)))

    await asyncio.gather(cycle(), arrivals(), arrivals())
    assert at.traffic.snapshot()["m"].completed == 400
