"""Opening, closing, draining and refusing."""

from __future__ import annotations

import asyncio

import pytest

from modelium.errors import LoadFailed, Unavailable, UnknownModel
from modelium.policy.trial import Answers
from modelium.routing.model_queue import RETRY_AFTER_S
from modelium.routing.switchboard import FAILURES_TOLD, SHOWN
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


async def test_drained_waits_for_the_last_of_several() -> None:
    at = board()
    at.open("m", HERE)
    async with at.admit("m"):
        async with at.admit("m"):
            at.close("m")
            drain = asyncio.create_task(at.drained("m", timeout_s=20.0))
            await asyncio.sleep(1.0)
        await asyncio.sleep(1.0)
        assert not drain.done()
    assert await drain


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


async def test_a_long_unknown_name_is_shortened() -> None:
    at = board()
    for length, told in ((SHOWN, f"'{'x' * 256}'"), (300, f"'{'x' * 256}'… (300 characters)")):
        with pytest.raises(UnknownModel) as refused:
            await one(at, "x" * length)
        assert str(refused.value) == (f"no model is named {told}; GET /v1/models lists all models")


async def test_a_removed_model_is_forgotten_once_nothing_of_it_is_in_flight() -> None:
    at = board()
    at.expect("m", ready_in_s=12.5, reason="behind n")
    at.open("n", HERE)
    async with at.admit("n"):
        at.close("n")
        at.know([])
        assert not await at.drained("n", timeout_s=0)
    assert await at.drained("n", timeout_s=0)
    at.know(["m"])
    with pytest.raises(Unavailable) as told:
        await one(at, "m")
    assert told.value.retry_after_s == RETRY_AFTER_S
    assert "behind n" not in str(told.value)


async def test_a_model_that_is_known_keeps_its_place_and_those_who_wait() -> None:
    at = board()
    at.expect("m", ready_in_s=12.5, reason="behind n")
    async with waiter(at) as held:
        at.know(["m", "x"])
        await asyncio.sleep(1.0)
        assert not held.done()
    with pytest.raises(Unavailable, match="behind n"):
        await one(at)


async def test_the_version_is_the_one_that_opened_or_the_known_one() -> None:
    at = board()
    at.know({"m": 3, "n": 5})
    at.open("m", HERE)
    at.open("n", HERE, version=4)
    at.open("new", HERE, version=7)
    assert [at.answers(name).version for name in ("m", "n", "new")] == [3, 4, 7]
    async with at.admit("new", version=7):
        pass
    with pytest.raises(Unavailable, match="version 5 of n will replace version 4"):
        async with at.admit("n", version=5):
            pass
    at.know({"m": 4})  # an older list, in which some are missing
    with pytest.raises(Unavailable, match="version 4 of m will replace version 3"):
        async with at.admit("m", version=4):
            pass
    async with at.admit("n", version=4), at.admit("new", version=7):
        pass


async def test_reopening_for_those_who_are_about_to_enter_is_no_second_cold_start() -> None:
    waits = Waits()
    at = board(waits=waits)
    async with waiter(at) as held:
        at.open("m", HERE)
        at.open("m", THERE)
        assert await held == THERE
    assert waits.cold_starts == ["m"]


async def test_a_switch_lets_requests_in_flight_end_where_they_are() -> None:
    at = board()
    at.open("m", HERE, version=1)
    at.judge("m", HERE, failed=False)
    async with at.admit("m") as upstream:
        at.switch("m", THERE, version=2, aside="m@1")
        assert upstream == HERE
        assert await one(at) == THERE
        assert at.answers("m") == Answers(version=2)
        assert await at.drained("m", timeout_s=0), "the new one has none"
        began = asyncio.get_running_loop().time()
        assert not await at.drained("m@1", timeout_s=2.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(2.0)
    assert await at.drained("m@1", timeout_s=0)


async def test_a_switch_of_a_closed_model_admits_those_who_wait() -> None:
    at = board()
    async with waiter(at) as held:
        at.switch("m", THERE, version=2, aside="m@1")
        assert await held == THERE
    assert await at.drained("m@1", timeout_s=0)
    at.switch("n", THERE, version=1, aside="n@0")
    assert await one(at, "n") == THERE


async def test_what_stood_aside_and_has_ended_stands_aside_no_longer() -> None:
    at = board()
    at.open("m", HERE)
    at.switch("m", THERE, version=2, aside="m@1")
    assert await at.drained("m@1", timeout_s=0)
    at.open("m@1", HERE)
    async with at.admit("m@1"):
        assert not await at.drained("m@1", timeout_s=0)


async def test_answers_are_counted_of_the_upstream_that_is_open() -> None:
    listener = Listener()
    at = board(listener=listener)
    at.judge("m", HERE, failed=True)
    assert (at.answers("m"), at.failing("m")) == (Answers(), 0)
    at.open("m", HERE, version=3)
    for failed in (True, False, True, True):
        at.judge("m", HERE.model_copy(), failed=failed)
    at.judge("m", THERE, failed=True)
    assert at.answers("m") == Answers(version=3, total=4, failed=3)
    assert (at.failing("m"), at.failing("n")) == (2, 0)
    assert listener.failed == ["m"] * 3
    at.forgive("m")
    at.forgive("never-seen")
    assert (at.failing("m"), at.answers("m").failed) == (0, 3)
    at.judge("m", HERE, failed=True)
    at.open("m", HERE.model_copy())
    assert (at.failing("m"), at.answers("m").total) == (1, 5), "opened again where it was"
    at.close("m")
    assert (at.answers("m"), at.failing("m")) == (Answers(), 0)
    at.open("m", THERE, version=4)
    assert (at.answers("m"), at.failing("m")) == (Answers(version=4), 0)


async def test_the_listener_is_told_of_the_failures_that_decide() -> None:
    listener = Listener()
    at = board(listener=listener)
    at.open("m", HERE)
    for _ in range(FAILURES_TOLD + 5):
        at.judge("m", HERE, failed=True)
    assert listener.failed == ["m"] * FAILURES_TOLD
    assert at.failing("m") == FAILURES_TOLD + 5


async def test_a_suspect_is_one_until_it_is_opened_or_closed() -> None:
    listener = Listener()
    at = board(listener=listener)
    at.suspect("m")
    assert (at.is_suspect("m"), listener.unreached) == (False, [])
    at.open("m", HERE)
    for end in (lambda: at.open("m", THERE), lambda: at.close("m")):
        at.suspect("m")
        assert at.is_suspect("m") and not at.is_suspect("n")
        end()
        assert not at.is_suspect("m")
    assert listener.unreached == ["m", "m"]


async def test_other_limits_apply_to_those_who_come_later() -> None:
    at = board(max_waiting_per_model=1, max_wait_s=30.0)
    async with waiter(at):
        at.limit(max_waiting_per_model=2, max_waiting=2, max_wait_s=7.0)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="not ready within 7 s"):
            await one(at)
        assert asyncio.get_running_loop().time() - began == pytest.approx(7.0)
        async with waiter(at, "n"):
            with pytest.raises(Unavailable, match="too many requests"):
                await one(at, "n")


async def test_refusing_nobody_is_fine() -> None:
    at = board()
    at.refuse("never-seen", LoadFailed("no room"), retry_after_s=1)
    assert at.upstream("never-seen") is None
    at.close("never-seen")
    assert await at.drained("never-seen", timeout_s=0)
