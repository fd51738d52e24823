"""Waiting requests become decisions, and those who wait learn what to expect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from modelium.control.demand import Demand
from modelium.control.loop import Loop
from modelium.errors import LoadFailed, Unavailable
from modelium.stages.evict import evict
from modelium.stages.ingest import ingest
from modelium.stages.monitor import monitor
from tests.modelium.conftest import World
from tests.samples import tiny_onnx


@pytest.fixture
async def demand(world: World) -> AsyncIterator[None]:
    async with deciding(Demand(services=world.services, signals=world.signals)):
        yield


@asynccontextmanager
async def deciding(demand: Demand) -> AsyncIterator[None]:
    task = asyncio.create_task(demand.run())
    yield
    task.cancel()


async def loaded(world: World, name: str = "tiny") -> None:
    tiny_onnx(world.incoming / name)
    await ingest(world.services, path=str(world.incoming / name))
    await world.settled(name, "ready")


async def unloaded(world: World, name: str = "tiny") -> None:
    await loaded(world, name)
    await evict(world.services, models=[name])


async def request(world: World, name: str = "tiny") -> str:
    async with world.services.switchboard.admit(name) as upstream:
        return upstream.served_name


async def test_a_request_brings_an_unloaded_model_back(world: World, demand: None) -> None:
    await unloaded(world)
    assert await request(world) == "tiny"
    assert world.runtime.loads == 2


async def test_requests_at_once_cause_one_load(world: World, demand: None) -> None:
    await unloaded(world)
    await asyncio.gather(*(request(world) for _ in range(8)))
    assert world.runtime.loads == 2


async def test_the_load_goes_on_when_the_waiter_leaves(world: World, demand: None) -> None:
    await unloaded(world)
    world.runtime.gate.clear()
    waiting = asyncio.create_task(request(world))
    await world.settled("tiny", "loading")
    waiting.cancel()
    world.runtime.gate.set()
    await world.settled("tiny", "ready")


async def test_who_waits_while_a_load_backs_off_is_told_at_once(world: World, demand: None) -> None:
    await unloaded(world)
    world.runtime.failure = LoadFailed("bad magic")
    with pytest.raises(Unavailable, match="bad magic"):
        await request(world)
    await world.settled("tiny", "failed")
    with pytest.raises(Unavailable, match="the last load failed: bad magic") as refused:
        await request(world)
    assert refused.value.retry_after_s is not None
    assert 20 < refused.value.retry_after_s <= 30
    assert world.runtime.loads == 2


async def test_nobody_waits_for_a_modelium_that_only_observes(
    world: World,
) -> None:
    await unloaded(world)
    policy = world.services.policy.model_copy(update={"enabled": False})
    demand = Demand(services=replace(world.services, policy=policy), signals=world.signals)
    async with deciding(demand):
        with pytest.raises(Unavailable, match="orchestration is disabled"):
            await request(world)


async def test_a_dead_engine_is_missed_as_soon_as_a_request_fails(world: World) -> None:
    """Right after it became ready a runtime's list is not believed, unless nothing answers."""
    await loaded(world)
    world.runtime.held.clear()
    assert (await monitor(world.services)).outcome == "steady"
    loop = Loop(services=world.services, signals=world.signals)
    running = asyncio.create_task(loop.run())
    try:
        await asyncio.sleep(0.2)  # the first look is over: the next one is 10 s away
        world.services.switchboard.suspect("tiny")
        async with asyncio.timeout(9):
            while world.runtime.loads < 2:  # noqa: ASYNC110 - it announces itself to nobody
                await asyncio.sleep(0.02)
        await world.settled("tiny", "ready")
    finally:
        running.cancel()
    assert not world.services.switchboard.is_suspect("tiny")
