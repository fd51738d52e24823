"""Admission, holding, draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from modelium.clock import SystemClock
from modelium.errors import LoadFailed, Unavailable, UnknownModel
from modelium.models import Upstream
from modelium.routing.model_queue import RETRY_AFTER_S
from modelium.routing.switchboard import Switchboard
from modelium.traffic import TrafficBook
from tests.fakes.routing import Listener, Waits

HERE = Upstream(host="127.0.0.1", port=1, served_name="m", apis=frozenset({"openai"}))
THERE = HERE.model_copy(update={"port": 2})


def board(
    *,
    max_waiting_per_model: int = 10,
    max_wait_s: float = 30.0,
    max_waiting: int = 100,
    repeat_demand_s: float = 0.01,
    listener: Listener | None = None,
    waits: Waits | None = None,
) -> Switchboard:
    made = Switchboard(
        traffic=TrafficBook(clock=SystemClock()),
        listener=listener or Listener(),
        metrics=waits or Waits(),
        max_waiting_per_model=max_waiting_per_model,
        max_wait_s=max_wait_s,
        max_waiting=max_waiting,
        repeat_demand_s=repeat_demand_s,
    )
    made.know(["m", "n"])
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it announces itself to nobody
            await asyncio.sleep(0)


async def one(at: Switchboard, model: str = "m") -> Upstream:
    async with at.admit(model) as upstream:
        return upstream


@asynccontextmanager
async def waiter(at: Switchboard, model: str = "m") -> AsyncIterator[asyncio.Task[Upstream]]:
    """A request that waits; cancelled at the end if it still does."""
    before = pending(at, model)
    task = asyncio.create_task(one(at, model))
    await until(lambda: pending(at, model) == before + 1)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pending(at: Switchboard, model: str = "m") -> int:
    traffic = at.traffic.snapshot().get(model)
    return traffic.pending if traffic else 0


async def test_open_model_admits_and_counts_until_the_request_ends() -> None:
    at = board()
    at.open("m", HERE)
    async with at.admit("m") as upstream:
        assert upstream == HERE
        assert at.traffic.in_flight("m") == 1
    traffic = at.traffic.snapshot()["m"]
    assert (traffic.in_flight, traffic.completed, traffic.failed) == (0, 1, 0)


async def test_exception_in_a_request_counts_as_failed_and_cancellation_does_not() -> None:
    at = board()
    at.open("m", HERE)
    for error in (ValueError, asyncio.CancelledError):
        with pytest.raises(error):
            async with at.admit("m"):
                raise error
    traffic = at.traffic.snapshot()["m"]
    assert (traffic.in_flight, traffic.completed, traffic.failed) == (0, 1, 1)


async def test_unknown_model_is_refused_at_once_and_leaves_no_trace() -> None:
    at = board()
    with pytest.raises(UnknownModel, match="no model is named 'x'"):
        await one(at, "x")
    assert "x" not in at.traffic.snapshot()


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


async def test_model_is_asked_for_at_once_and_for_as_long_as_somebody_waits() -> None:
    """A trigger that gets lost does not strand anybody."""
    listener = Listener()
    at = board(listener=listener)
    async with waiter(at):
        assert listener.demanded == ["m"]
        await until(lambda: len(listener.demanded) >= 4)
    settled = len(listener.demanded)
    await asyncio.sleep(0.05)
    assert len(listener.demanded) == settled


async def test_many_waiters_ask_as_one() -> None:
    listener = Listener()
    at = board(repeat_demand_s=30, listener=listener)
    async with waiter(at), waiter(at), waiter(at):
        assert listener.demanded == ["m"]


async def test_open_model_is_not_asked_for() -> None:
    listener = Listener()
    at = board(listener=listener)
    at.open("m", HERE)
    await one(at)
    assert listener.demanded == []


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
        await asyncio.sleep(0.02)
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


async def test_longest_wait_ends_with_the_expected_time_and_the_reason() -> None:
    at = board(max_wait_s=0.02)
    with pytest.raises(Unavailable) as plain:
        await one(at)
    assert plain.value.retry_after_s == RETRY_AFTER_S
    at.expect("m", ready_in_s=12.5, reason="queued behind n")
    with pytest.raises(Unavailable, match="queued behind n") as told:
        await one(at)
    assert told.value.retry_after_s == 12.5
    assert pending(at) == 0


async def test_reason_does_not_outlive_the_load() -> None:
    at = board(max_wait_s=0.02)
    at.expect("m", ready_in_s=12.5, reason="queued behind n")
    at.open("m", HERE)
    at.close("m")
    with pytest.raises(Unavailable) as told:
        await one(at)
    assert "queued" not in str(told.value)


async def test_wakeups_do_not_lengthen_the_wait() -> None:
    at = board(max_wait_s=0.2)

    async def flap() -> None:
        while True:
            at.open("m", HERE)
            at.close("m")
            await asyncio.sleep(0.01)

    flapping = asyncio.create_task(flap())
    with pytest.raises(Unavailable):
        async with asyncio.timeout(20):
            await one(at)
    flapping.cancel()


async def test_too_many_waiters_of_one_model_or_of_all_are_refused_at_once() -> None:
    at = board(max_waiting_per_model=1)
    async with waiter(at, "m"):
        with pytest.raises(Unavailable, match="too many requests already wait"):
            await one(at, "m")
        async with waiter(at, "n"):
            pass
    at = board(max_waiting=1)
    async with waiter(at, "m"):
        with pytest.raises(Unavailable, match="too many requests already wait"):
            await one(at, "n")


async def test_where_nobody_may_wait_the_model_is_asked_for_all_the_same() -> None:
    seen: list[int] = []
    listener = Listener(demand=lambda model: seen.append(pending(at, model)))
    at = board(max_waiting_per_model=0, listener=listener)
    with pytest.raises(Unavailable):
        await one(at)
    assert seen == [1]
    assert pending(at) == 0


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


async def test_wait_that_ended_is_reported_however_it_ended() -> None:
    waits = Waits()
    at = board(max_wait_s=30, waits=waits)
    async with waiter(at) as first:
        at.open("m", HERE)
        await first
    at.close("m")
    async with waiter(at):
        pass
    assert [model for model, _ in waits.held] == ["m", "m"]
    assert all(waited >= 0 for _, waited in waits.held)


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
