"""Requests wait for their model within bounds, and report demand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelium.errors import Quarantined, Unavailable, UnknownModel
from modelium.models import Priority, Upstream
from modelium.routing.model_queue import RETRY_AFTER_S
from modelium.routing.switchboard import Switchboard
from tests.fakes.routing import Listener, Waits
from tests.modelium.routing.conftest import HERE, THERE, board, one, pending, waiter


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


async def test_model_is_asked_for_at_once_and_for_as_long_as_somebody_waits() -> None:
    """A report that gets lost delays nobody for long."""
    listener = Listener()
    at = board(repeat_demand_s=2.0, listener=listener)
    async with waiter(at):
        assert listener.demanded == ["m"]
        await asyncio.sleep(7.0)
        assert listener.demanded == ["m"] * 4
    await asyncio.sleep(100.0)
    assert listener.demanded == ["m"] * 4


async def test_many_waiters_ask_as_one() -> None:
    listener = Listener()
    at = board(repeat_demand_s=2.0, listener=listener)
    async with waiter(at), waiter(at), waiter(at):
        await asyncio.sleep(1.0)
        assert listener.demanded == ["m"]
        await asyncio.sleep(2.0)
        assert listener.demanded == ["m", "m"]


async def test_open_model_is_not_asked_for() -> None:
    listener = Listener()
    at = board(listener=listener)
    at.open("m", HERE)
    await one(at)
    assert listener.demanded == []


async def test_longest_wait_ends_with_the_expected_time_and_the_reason() -> None:
    at = board(max_wait_s=30.0)
    with pytest.raises(Unavailable) as plain:
        await one(at)
    assert plain.value.retry_after_s == RETRY_AFTER_S
    at.expect("m", ready_in_s=12.5, reason="queued behind n")
    with pytest.raises(Unavailable, match="queued behind n") as told:
        await one(at)
    assert told.value.retry_after_s == 12.5
    assert pending(at) == 0


async def test_wakeups_do_not_lengthen_the_wait() -> None:
    at = board(max_wait_s=30.0)

    async def flap() -> None:
        while True:
            at.open("m", HERE)
            at.close("m")
            await asyncio.sleep(0.7)

    flapping = asyncio.create_task(flap())
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        await one(at)
    assert asyncio.get_running_loop().time() - began == pytest.approx(30.0)
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


async def test_the_places_of_those_who_wait_are_free_again_when_they_leave() -> None:
    at = board(max_waiting_per_model=1, max_waiting=1)
    for model in ("m", "n", "m"):
        async with waiter(at, model):
            assert pending(at, model) == 1
        assert pending(at, model) == 0


async def test_a_request_that_may_not_wait_asks_only_where_nobody_else_does() -> None:
    listener = Listener()
    at = board(max_waiting_per_model=1, listener=listener)
    async with waiter(at):
        with pytest.raises(Unavailable, match="m is not loaded and too many requests already wait"):
            await one(at)
    assert listener.demanded == ["m"]


async def test_demand_goes_on_when_one_of_two_leaves() -> None:
    listener = Listener()
    at = board(repeat_demand_s=2.0, listener=listener)
    async with waiter(at):
        async with waiter(at):
            pass
        await asyncio.sleep(5.0)
        assert listener.demanded == ["m", "m", "m"]
    async with waiter(at):
        assert listener.demanded == ["m"] * 4


async def test_the_time_waited_is_that_since_the_arrival() -> None:
    waits = Waits()
    at = board(max_wait_s=30.0, waits=waits)
    await asyncio.sleep(100.0)
    with pytest.raises(Unavailable) as told:
        await one(at)
    assert waits.held == [("m", pytest.approx(30.0))]
    assert str(told.value) == "m was not ready within 30 s; a load in progress continues"


async def test_the_latency_is_that_of_the_answer_alone() -> None:
    at = board()
    async with waiter(at) as first:
        await asyncio.sleep(5.0)
        at.open("m", HERE)
        await first
    async with at.admit("m"):
        await asyncio.sleep(3.0)
    traffic = at.traffic.snapshot()["m"]
    assert traffic.latency_p99_s == pytest.approx(3.0)


async def test_the_best_class_of_those_who_wait_is_known() -> None:
    at = board(max_waiting_per_model=1)
    seen: list[Priority | None] = []
    for priority in (Priority.HIGH, None):
        waiting = asyncio.create_task(enter(at, priority=priority))
        await asyncio.sleep(1.0)
        with pytest.raises(Unavailable):
            await enter(at, priority=Priority.HIGH)
        seen.append(at.traffic.snapshot()["m"].pending_priority)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert seen == [Priority.HIGH, None]
    assert pending(at) == 0


async def enter(at: Switchboard, **asked: Any) -> Upstream:
    async with at.admit("m", **asked) as upstream:
        return upstream


async def test_arrivals_count_whatever_becomes_of_them() -> None:
    at = board(max_wait_s=1.0)
    at.open("n", HERE)
    with pytest.raises(Unavailable):
        await one(at, "m")
    await one(at, "n")
    shown = at.traffic.snapshot()
    assert [shown[name].first_request_at is not None for name in ("m", "n")] == [True, True]


@pytest.mark.parametrize(
    ("opened", "registered", "asked", "told"),
    [
        (None, 2, 1, "version 1 of m is not available; version 2 is"),
        (1, 2, 3, "version 3 of m is not available; version 1 is"),
        (1, 2, 2, "version 2 of m will replace version 1, which is still served"),
        (1, 2, 1, None),
        (1, 2, None, None),
        (2, 2, 2, None),
    ],
)
async def test_a_version_is_served_or_refused_at_once(
    opened: int | None, registered: int, asked: int | None, told: str | None
) -> None:
    at = board()
    at.know({"m": registered})
    if opened is not None:
        at.open("m", HERE, version=opened)
    began = asyncio.get_running_loop().time()
    if told is None:
        assert await enter(at, version=asked) == HERE
    else:
        replaced = "replace" in told
        with pytest.raises(Unavailable if replaced else UnknownModel) as refused:
            await enter(at, version=asked)
        assert str(refused.value) == told
    assert asyncio.get_running_loop().time() == began
    assert pending(at) == 0


async def test_a_version_that_a_load_brings_is_waited_for() -> None:
    at = board()
    at.know({"m": 2})
    waiting = asyncio.create_task(enter(at, version=2))
    await asyncio.sleep(1.0)
    at.open("m", THERE, version=2)
    assert await waiting == THERE


async def test_a_version_that_another_one_came_instead_of_is_refused() -> None:
    at = board()
    at.know({"m": 1})
    waiting = asyncio.create_task(enter(at, version=1))
    await asyncio.sleep(1.0)
    at.open("m", THERE, version=2)
    at.know({"m": 2})
    with pytest.raises(UnknownModel, match="version 1 of m is not available; version 2 is"):
        await waiting
    assert at.traffic.in_flight("m") == 0
    assert await at.drained("m", timeout_s=0)


async def test_what_refused_those_who_wait_is_told_to_each() -> None:
    """With its Retry-After, and as an error of its own."""
    at = board()
    async with waiter(at) as first, waiter(at) as second:
        at.refuse("m", Quarantined("m failed too often"), retry_after_s=9.0)
        for held in (first, second):
            with pytest.raises(Unavailable) as told:
                await held
            assert (str(told.value), told.value.retry_after_s) == ("m failed too often", 9.0)
            assert told.value.reason == "quarantined"
