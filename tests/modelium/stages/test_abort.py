"""An operator ends a load: nothing of it runs, nothing is booked, and it is no failure."""

from __future__ import annotations

import asyncio

import pytest

from modelium.control.operations import Operations
from modelium.errors import Unavailable
from modelium.lifecycle import ModelState
from modelium.models import Report, Trigger
from modelium.stages import unloading
from modelium.stages.abort import REASON, abort
from modelium.stages.evict import evict
from modelium.stages.load import load
from tests.modelium.conftest import World
from tests.modelium.stages.rows import becomes_ready_when_read

pytestmark = pytest.mark.slow


async def hanging(world: World) -> asyncio.Task[Report]:
    """Return a load that hangs in the runtime."""
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    task = asyncio.create_task(load(world.services, model="tiny", steps=world.steps))
    await world.runtime.asked.wait()
    return task


def ends(world: World) -> list[tuple[str, dict[str, object]]]:
    """Return the events of loads that ended otherwise than ready."""
    kinds = ("model.failed", "model.aborted")
    return [(event.kind, event.detail) for event in world.heard if event.kind in kinds]


async def test_a_hung_load_is_aborted_and_counts_as_no_failure(world: World) -> None:
    task = await hanging(world)
    report = await evict(world.services, models=["tiny"])
    assert (report.outcome, report.reason) == ("aborted", "the load of tiny was aborted")
    record = world.store.model("tiny")
    assert record.state is ModelState.UNLOADED
    assert (record.failures, record.retry_at, record.reason) == (0, None, REASON)
    assert not world.store.view()[2]
    made = world.store.decisions.newest(model="tiny")[0]
    assert (made.outcome, made.detail) == ("failed", REASON)
    loaded = await task
    assert (loaded.outcome, loaded.reason) == ("cancelled", REASON)
    assert ends(world) == [("model.aborted", {"version": 1, "reason": REASON})]
    assert 'modelium_load_duration_seconds_count{outcome="cancelled"' in world.exposed()
    world.runtime.gate.set()
    assert (await load(world.services, model="tiny", steps=world.steps)).outcome == "ready"


async def test_the_runtime_has_confirmed_the_end_before_the_memory_is_given_back(
    world: World,
) -> None:
    task = await hanging(world)
    world.runtime.unload_gate.clear()
    aborting = asyncio.create_task(evict(world.services, models=["tiny"]))
    await world.idle()
    assert world.store.view()[2], "the memory is still booked"
    world.runtime.unload_gate.set()
    await aborting
    await task
    assert not world.store.view()[2]


async def test_an_abort_waits_for_no_runtime_that_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await hanging(world)
    monkeypatch.setattr(unloading, "UNLOAD_S", 0.05)
    world.runtime.unload_gate.clear()
    with pytest.raises(Unavailable, match="has not ended the load of tiny yet"):
        await evict(world.services, models=["tiny"])
    await task
    assert world.store.model("tiny").state is ModelState.UNLOADING
    assert world.store.view()[2], "the memory is still booked"
    world.runtime.unload_gate.set()
    await world.converge()
    assert world.store.model("tiny").state is ModelState.UNLOADED


async def test_what_the_runtime_does_not_end_keeps_its_memory(world: World) -> None:
    task = await hanging(world)
    world.runtime.unload_failure = Unavailable("processes [7] survive SIGKILL")
    with pytest.raises(Unavailable):
        await evict(world.services, models=["tiny"])
    assert world.store.model("tiny").state is ModelState.UNLOADING
    assert world.store.view()[2]
    await asyncio.wait({task})


async def test_a_load_that_waits_for_its_evictions_is_aborted_too(world: World) -> None:
    await world.load("other")
    await world.load()
    await evict(world.services, models=["tiny"])
    plan = await world.services.launcher.decide(
        model="tiny", trigger=Trigger.OPERATOR, carry_out=False
    )
    assert world.store.model("tiny").state is ModelState.LOADING, "booked, and nobody is at it"
    assert (await evict(world.services, models=["tiny"])).outcome == "aborted"
    assert world.store.model("tiny").state is ModelState.UNLOADED
    assert ends(world) == [("model.aborted", {"version": 1, "reason": REASON})]
    late = await load(world.services, model="tiny", decision=plan.decision)
    assert (late.outcome, late.reason) == ("unloaded", "the decision is no longer in force")
    assert {booking.model for booking in world.store.view()[2]} == {"other"}


async def test_a_request_that_waits_for_it_is_told_why(world: World) -> None:
    task = await hanging(world)
    asked = asyncio.create_task(world.request())
    await world.idle()
    await evict(world.services, models=["tiny"])
    with pytest.raises(Unavailable, match=REASON):
        await asked
    await task


async def test_the_requests_to_load_fail_and_that_to_unload_is_done(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    operations = Operations(services=world.services)
    wanted = await operations.load("tiny")
    await world.runtime.asked.wait()
    joined = await operations.load("tiny")
    await world.idle()
    unwanted = await operations.unload("tiny")
    intents = (wanted, joined, unwanted)
    for intent in intents:
        await world.eventually(lambda i=intent: world.store.intents.get(i.id).state != "pending")
    ends = [world.store.intents.get(intent.id) for intent in intents]
    assert [(end.state, end.detail) for end in ends] == [
        ("failed", REASON),
        ("failed", REASON),
        ("done", "the load of tiny was aborted"),
    ]
    await operations.aclose()


async def test_a_load_that_becomes_ready_as_it_is_aborted_is_evicted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    await world.services.launcher.decide(model="tiny", trigger=Trigger.OPERATOR, carry_out=False)
    becomes_ready_when_read(world, monkeypatch, times=2)
    report = await evict(world.services, models=["tiny"])
    assert (report.outcome, report.details) == ("unloaded", {"models": {"tiny": "unloaded"}})
    assert world.store.model("tiny").state is ModelState.UNLOADED
    assert not world.store.view()[2]
    assert ends(world) == [], "no load was aborted"


async def test_a_load_that_becomes_ready_as_it_is_aborted_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    await world.services.launcher.decide(model="tiny", trigger=Trigger.OPERATOR, carry_out=False)
    becomes_ready_when_read(world, monkeypatch)
    await abort(world.services, "tiny")
    assert world.store.model("tiny").state is ModelState.READY
    assert "tiny" in world.runtime.held and "tiny" not in world.services.owners
