"""Models are drained and unloaded, or stay where the policy or a request says so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from modelium.errors import Unavailable
from modelium.lifecycle import ModelState
from modelium.models import EvictionCause
from modelium.policy import PlanRejected
from modelium.stages.evict import evict, unload_plan
from tests.modelium.conftest import World

pytestmark = pytest.mark.slow


async def test_an_unload_drains_and_frees(world: World) -> None:
    await world.load()
    report = await evict(world.services, models=["tiny"])
    assert report.outcome == "unloaded"
    assert world.store.model("tiny").state is ModelState.UNLOADED
    assert not world.store.view()[2] and not world.runtime.held
    again = await evict(world.services, models=["tiny"])
    assert again.outcome == "nothing"


async def test_a_busy_model_is_not_unloaded(world: World) -> None:
    await world.load()
    async with world.services.switchboard.admit("tiny"):
        report = await evict(world.services, models=["tiny"])
    assert report.outcome == "busy"
    assert world.store.model("tiny").state is ModelState.READY
    assert world.services.switchboard.upstream("tiny") is not None
    assert not world.store.view()[2][0].releasing


async def test_an_eviction_that_did_not_happen_is_recorded_as_failed(world: World) -> None:
    await world.load()
    async with world.services.switchboard.admit("tiny"):
        report = await evict(world.services, models=["tiny"])
    assert report.decision is not None
    made = world.store.decisions.get(report.decision)
    assert (made.outcome, made.detail) == ("failed", "still busy: tiny")


async def test_an_unload_waits_for_requests_in_flight(world: World) -> None:
    await world.load()
    gateway = world.services.config.gateway.model_copy(update={"drain_grace_seconds": 60.0})
    config = world.services.config.model_copy(update={"gateway": gateway})
    world.services = replace(world.services, config=config)
    async with world.services.switchboard.admit("tiny"):
        unloading = asyncio.create_task(evict(world.services, models=["tiny"]))
        await world.settled("tiny", "draining")
        assert world.runtime.held
    assert (await unloading).outcome == "unloaded"


async def test_a_pinned_model_is_not_unloaded(world: World) -> None:
    await world.load()
    world.store.rules.set_pinned("tiny", True)
    with pytest.raises(PlanRejected, match="pinned"):
        await evict(world.services, models=["tiny"])
    refused = world.store.decisions.newest(model="tiny")[0]
    assert refused.outcome == "refused" and refused.violations


async def test_a_queued_model_leaves_the_queue(world: World) -> None:
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    await world.drop()
    await world.settled("tiny", "queued")
    report = await evict(world.services, models=["tiny"])
    assert report.outcome == "nothing"
    assert world.store.model("tiny").state is ModelState.UNLOADED


async def test_a_runtime_that_cannot_unload_keeps_the_memory_booked(world: World) -> None:
    await world.load()
    world.runtime.unload_failure = Unavailable("no answer")
    with pytest.raises(Unavailable, match="no answer"):
        await evict(world.services, models=["tiny"], steps=world.steps)
    assert world.store.model("tiny").state is ModelState.UNLOADING
    assert world.store.view()[2], "what the runtime may still hold is promised to nobody"
    assert world.services.switchboard.upstream("tiny") is None


async def test_an_eviction_is_counted_by_its_cause(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"], reason="spring cleaning")
    assert 'modelium_evictions_total{reason="operator"} 1.0' in world.exposed()


def test_an_unload_plan_carries_its_cause_for_each_model() -> None:
    plan = unload_plan(["a", "b"], cause=EvictionCause.REPLACED, reason="newer")
    assert [(a.action, a.model) for a in plan.actions] == [("unload", "a"), ("unload", "b")]
    assert {a.cause for a in plan.actions if a.action == "unload"} == {EvictionCause.REPLACED}
    assert plan.author == "operator"
