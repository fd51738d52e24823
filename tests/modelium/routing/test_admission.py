"""Requests wait for their model within bounds, and report demand."""

from __future__ import annotations

import asyncio

import pytest

from modelium.errors import Unavailable, UnknownModel
from modelium.routing.model_queue import RETRY_AFTER_S
from tests.fakes.routing import Listener, Waits
from tests.modelium.routing.conftest import HERE, board, one, pending, waiter


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
