"""Waiting requests cause decisions, and get an estimate or a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agents.rules.planner import RulePlanner
from modelium.control.demand import RETRY_S, Demand
from modelium.errors import LoadFailed, Unavailable
from modelium.models import Plan
from modelium.models.load_time import load_seconds
from modelium.policy.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S
from modelium.stages.evict import evict
from tests.modelium.conftest import DEADLINE_S, World

pytestmark = pytest.mark.slow


@pytest.fixture
async def demand(world: World) -> AsyncIterator[None]:
    async with deciding(world):
        yield


@asynccontextmanager
async def deciding(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(Demand(services=world.services, signals=world.signals).run())
    yield
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def unloaded(world: World, name: str = "tiny") -> None:
    await world.load(name)
    await evict(world.services, models=[name])


async def test_a_request_brings_an_unloaded_model_back(world: World, demand: None) -> None:
    await unloaded(world)
    assert await world.request() == "tiny"
    assert world.runtime.loads == 2


async def test_requests_at_once_cause_one_load(world: World, demand: None) -> None:
    await unloaded(world)
    await asyncio.gather(*(world.request() for _ in range(8)))
    assert world.runtime.loads == 2


async def test_the_load_goes_on_when_the_request_is_given_up(world: World, demand: None) -> None:
    await unloaded(world)
    world.runtime.gate.clear()
    waiting = asyncio.create_task(world.request())
    await world.settled("tiny", "loading")
    waiting.cancel()
    world.runtime.gate.set()
    await world.settled("tiny", "ready")


async def test_a_request_is_refused_at_once_while_a_failed_load_backs_off(
    world: World, demand: None
) -> None:
    await unloaded(world)
    world.runtime.failure = LoadFailed("bad magic")
    with pytest.raises(Unavailable, match="bad magic"):
        await world.request()
    await world.settled("tiny", "failed")
    with pytest.raises(Unavailable, match="the last load failed: bad magic") as refused:
        await world.request()
    retry_after_s = refused.value.retry_after_s
    assert retry_after_s is not None
    assert FIRST_PAUSE_S - RETRY_S < retry_after_s <= FIRST_PAUSE_S
    assert world.runtime.loads == 2


async def test_requests_for_a_quarantined_model_are_told_why_and_what_to_do(
    world: World, demand: None
) -> None:
    await unloaded(world)
    world.rule(quarantine_after=1)
    world.runtime.failure = LoadFailed("bad magic")
    with pytest.raises(Unavailable, match="bad magic"):
        await world.request()
    await world.settled("tiny", "failed")
    world.clock.advance(LONGEST_PAUSE_S)
    world.ran.clear()
    with pytest.raises(Unavailable, match=r"modelium retry tiny.*bad magic") as refused:
        await world.request()
    assert refused.value.reason == "quarantined"
    assert refused.value.retry_after_s == LONGEST_PAUSE_S
    assert world.ran == [], "each such request costs no decision"
    assert world.runtime.loads == 2


async def test_requests_are_refused_where_orchestration_is_disabled(world: World) -> None:
    await unloaded(world)
    world.rule(enabled=False)
    async with deciding(world):
        with pytest.raises(Unavailable, match="orchestration is disabled"):
            await world.request()


async def test_requests_up_to_the_threshold_cause_no_decision(world: World) -> None:
    await unloaded(world)
    world.rule(pending_requests_threshold=1)
    world.ran.clear()
    async with deciding(world):
        first = asyncio.create_task(world.request())
        await world.idle()
        assert world.ran == []
        second = asyncio.create_task(world.request())
        world.signals.on_demand("tiny")
        assert list(await asyncio.gather(first, second)) == ["tiny", "tiny"]
        assert world.ran[0][0] == "decide"


class BrokenBrain(RulePlanner):
    """Has a bug."""

    async def decide(self, *args: object, **kwargs: object) -> Plan:
        raise KeyError("a bug")


async def test_a_decision_that_breaks_refuses_the_requests_that_wait(world: World) -> None:
    await unloaded(world)
    world.services = replace(world.services, brain=BrokenBrain())
    async with deciding(world):
        with pytest.raises(Unavailable, match="a bug") as refused:
            await world.request()
    assert refused.value.retry_after_s == RETRY_S


async def test_a_queued_model_is_decided_on_again_after_a_pause(world: World) -> None:
    await unloaded(world)
    world.clock.hurried = False
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    async with deciding(world):
        waiting = asyncio.create_task(world.request())
        await world.settled("tiny", "queued")
        await world.clock.asleep()
        assert not waiting.done()
        world.ran.clear()
        world.signals.on_demand("tiny")
        await world.idle()
        assert world.ran == [], "one decision at a time"
        async with asyncio.timeout(DEADLINE_S):
            while not world.ran:  # the first decision may still be on its way to its pause
                world.clock.advance(RETRY_S)
                await world.idle()
                world.signals.on_demand("tiny")
        assert [stage for stage, _parameters in world.ran] == ["decide"]
        waiting.cancel()


async def test_a_request_that_is_refused_at_once_is_demand_all_the_same(
    world: World, demand: None
) -> None:
    """Where no more requests may wait, each is a 503, and the model is loaded nevertheless."""
    await unloaded(world)
    world.services.switchboard._control._max_waiting = 0
    with pytest.raises(Unavailable):
        await world.request()
    await world.settled("tiny", "ready")


async def test_a_decision_that_loads_is_followed_by_no_pause(world: World, demand: None) -> None:
    await unloaded(world)
    world.clock.slept.clear()
    await world.request()
    await world.idle()
    assert RETRY_S not in world.clock.slept


async def test_those_who_may_not_wait_are_told_what_a_queued_model_waits_for(
    world: World, demand: None
) -> None:
    await unloaded(world)
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    waiting = asyncio.create_task(world.request())
    await world.settled("tiny", "queued")
    board = world.services.switchboard
    await world.clock.asleep(0)
    async with asyncio.timeout(DEADLINE_S):
        while RETRY_S not in world.clock.slept:
            await world.idle()
    board.limit(max_waiting_per_model=0, max_waiting=0, max_wait_s=DEADLINE_S)
    record = world.store.model("tiny")
    with pytest.raises(Unavailable) as told:
        await world.request()
    assert str(told.value).endswith(f"({record.reason})")
    assert told.value.retry_after_s == load_seconds(record)
    waiting.cancel()
