"""Every transition that nobody is at any more is driven on or back, without a restart."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from modelium.errors import LoadFailed, ModeliumError, Unavailable
from modelium.lifecycle import ModelState
from modelium.models import Load, Plan, Trigger, Unload
from modelium.policy.memory_budget import available_bytes
from modelium.stages import load_request, loading, unloading
from modelium.stages.evict import evict
from modelium.stages.load import load
from modelium.store import Store
from tests.fakes.devices import CPU
from tests.modelium.conftest import World
from tests.modelium.stages.test_load import MakesRoom, booked, unloaded

pytestmark = pytest.mark.slow

WHEN_IT_FAILS = (Unavailable("no answer"), OSError(24, "Too many open files"), KeyError("app"))


def accepted(store: Store, action: Load | Unload) -> str:
    plan = Plan(author="rules", trigger=Trigger.SWEEP, actions=(action,), revision=store.revision())
    return store.accept(plan, snapshot_digest="", trace={}).id


async def stuck_unloading(world: World, failure: Exception, name: str = "tiny") -> None:
    """A model whose runtime does not unload it, past all retries."""
    await world.load(name)
    world.runtime.unload_failure = failure
    with pytest.raises(type(failure)):
        await evict(world.services, models=[name], steps=world.steps)
    assert world.store.model(name).state is ModelState.UNLOADING


# --- loads ----------------------------------------------------------------------------------------


async def test_a_load_that_the_store_did_not_take_is_opened_when_it_does(world: World) -> None:
    await unloaded(world)
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    loading = asyncio.create_task(load(world.services, model="tiny", steps=world.steps))
    await world.runtime.asked.wait()
    with world.locked():
        world.runtime.gate.set()
        with pytest.raises(Exception, match=r"locked|busy"):
            await loading
    assert world.store.model("tiny").state is ModelState.LOADING
    await world.converge()
    assert world.store.model("tiny").state == ("ready")
    record = world.store.model("tiny")
    assert record.deployment is not None and record.deployment.upstream is not None
    assert await world.request() == "tiny"
    assert world.runtime.loads == 2, "it was not loaded again"


async def test_a_failed_load_that_the_store_did_not_take_is_queued_again(world: World) -> None:
    await unloaded(world)
    world.runtime.unloads.clear()
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    world.runtime.failure = LoadFailed("bad magic")
    loading = asyncio.create_task(load(world.services, model="tiny", steps=world.steps))
    await world.runtime.asked.wait()
    with world.locked():
        world.runtime.gate.set()
        with pytest.raises(LoadFailed, match="bad magic"):
            await loading
    assert world.store.model("tiny").state is ModelState.LOADING
    await world.converge()
    assert world.store.model("tiny").state == ("queued")
    assert not world.store.view()[2]
    assert [name for name, _grace_s in world.runtime.unloads] == ["tiny"]


async def test_a_load_that_was_booked_and_never_set_off_is_queued_again(world: World) -> None:
    await unloaded(world)
    decision = await booked(world, weight_bytes=5)
    assert world.store.model("tiny").state is ModelState.LOADING
    await world.converge()
    assert world.store.decisions.get(decision).outcome == "failed"
    assert world.store.model("tiny").state == ("queued")
    record = world.store.model("tiny")
    assert (record.failures, record.retry_at) == (0, None)
    assert record.queued_at is not None and not world.store.view()[2]


async def test_a_load_in_progress_is_left_alone(world: World) -> None:
    world.runtime.gate.clear()
    await world.drop()
    await world.runtime.asked.wait()
    for _ in range(3):
        await world.converge()
    assert world.runtime.unloads == []
    assert world.store.model("tiny").state is ModelState.LOADING
    world.runtime.gate.set()
    await world.settled("tiny", "ready")


async def test_a_load_waits_with_an_owner_for_the_evictions_before_it(world: World) -> None:
    await unloaded(world)
    await world.load("other")
    world.services = replace(world.services, brain=MakesRoom(world, "other"))
    world.runtime.unload_gate.clear()
    deciding = asyncio.ensure_future(world.launcher.decide(model="tiny", trigger=Trigger.OPERATOR))
    await world.settled("other", "unloading")
    for _ in range(3):
        await world.converge()
    assert world.store.model("tiny").state is ModelState.LOADING
    world.runtime.unload_gate.set()
    await deciding
    await world.settled("tiny", "ready")


async def test_a_load_whose_driver_never_ends_has_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await unloaded(world)
    monkeypatch.setattr(loading, "OVERTIME_S", 0.0)
    monkeypatch.setattr(load_request, "load_bound_s", lambda *_args: 0.05)
    world.runtime.gate.clear()
    with pytest.raises(LoadFailed, match="neither loaded tiny nor gave up"):
        await load(world.services, model="tiny", steps=world.steps)
    assert world.store.model("tiny").state is ModelState.FAILED


# --- evictions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", WHEN_IT_FAILS, ids=lambda e: type(e).__name__)
async def test_an_unload_that_failed_goes_on_when_the_runtime_does_it(
    world: World, failure: Exception
) -> None:
    await stuck_unloading(world, failure)
    await world.converge()
    assert world.store.model("tiny").state is ModelState.UNLOADING, "it still holds its memory"
    assert world.store.view()[2]
    world.runtime.unload_failure = None
    await world.converge()
    assert world.store.model("tiny").state == ("unloaded")
    assert not world.runtime.held and not world.store.view()[2]
    assert (await world.event("model.evicted")).model == "tiny"


async def test_what_a_healthy_runtime_does_not_list_is_released(world: World) -> None:
    await stuck_unloading(world, Unavailable("the proxy's port is taken"))
    world.runtime.held.clear()  # its processes have ended all the same
    await world.converge()
    assert world.store.model("tiny").state is ModelState.UNLOADING, "a list may lag behind"
    await world.converge()
    assert world.store.model("tiny").state == ("unloaded")
    assert not world.store.view()[2]


@pytest.mark.parametrize("how", ["down", "raises"])
async def test_what_a_sick_runtime_does_not_list_stays_booked(world: World, how: str) -> None:
    await stuck_unloading(world, Unavailable("no answer"))
    world.runtime.held.clear()
    world.runtime.healthy = how != "down"
    world.runtime.discover_failure = OSError(24, "Too many open files") if how != "down" else None
    for _ in range(4):
        await world.converge()
    assert world.store.model("tiny").state is ModelState.UNLOADING
    world.runtime.healthy, world.runtime.discover_failure = True, None
    await world.converge()
    assert world.store.model("tiny").state == ("unloaded")


async def test_an_unload_that_hangs_is_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.load()
    monkeypatch.setattr(unloading, "UNLOAD_S", 0.05)
    world.runtime.unload_gate.clear()
    with pytest.raises(ModeliumError, match="did not unload tiny"):
        await evict(world.services, models=["tiny"], steps=world.steps)
    world.runtime.unload_gate.set()
    await world.converge()
    assert world.store.model("tiny").state == ("unloaded")


async def test_an_eviction_that_was_booked_and_never_set_off_goes_on(world: World) -> None:
    await world.load()
    accepted(world.store, Unload(model="tiny", reason="idle", requeue=True))
    assert world.store.model("tiny").state is ModelState.DRAINING
    await world.converge()
    assert world.store.model("tiny").state == ("queued")
    assert not world.runtime.held and not world.store.view()[2]
    assert world.store.model("tiny").reason == "idle", "it was to be queued again"


async def test_an_eviction_that_was_not_set_off_leaves_a_busy_model(world: World) -> None:
    await world.load()
    async with world.services.switchboard.admit("tiny"):
        decision = accepted(world.store, Unload(model="tiny", reason="idle"))
        await world.converge()
        await world.settled("tiny", "ready")
    made = world.store.decisions.get(decision)
    assert (made.outcome, made.detail) == ("failed", "still busy: tiny")
    assert not world.store.view()[2][0].releasing
    assert await world.request() == "tiny"


async def test_an_eviction_that_fails_delays_no_other(world: World) -> None:
    await world.load("good")
    await world.load("bad")
    world.runtime.unload_failures["bad"] = KeyError("app")
    world.runtime.unload_gate.clear()
    run = asyncio.create_task(evict(world.services, models=["bad", "good"], steps=world.steps))
    await world.settled("good", "unloading")
    await world.settled("bad", "unloading")
    await world.idle()
    assert not run.done() and "good" in world.services.owners
    world.runtime.unload_gate.set()
    with pytest.raises(KeyError):
        await run
    assert world.store.model("good").state is ModelState.UNLOADED
    assert world.store.model("bad").state is ModelState.UNLOADING


async def test_a_load_whose_eviction_fails_is_not_left_behind(world: World) -> None:
    await unloaded(world)
    await world.load("other")
    world.services = replace(world.services, brain=MakesRoom(world, "other"))
    world.runtime.unload_failure = Unavailable("no answer")
    report = await load(world.services, model="tiny", steps=world.steps)
    assert report.outcome == "queued" and "no answer" in report.reason
    assert world.store.model("tiny").state is ModelState.QUEUED
    assert {b.model for b in world.store.view()[2]} == {"other"}
    world.runtime.unload_failure = None
    await world.converge()
    assert world.store.model("other").state == ("unloaded")


async def test_a_decisions_loads_are_set_off_though_its_evictions_fail(world: World) -> None:
    await unloaded(world)
    await world.load("other")
    world.services = replace(world.services, brain=MakesRoom(world, "other"))
    world.runtime.unload_failure = Unavailable("no answer")
    with pytest.raises(Unavailable):
        await world.launcher.decide(model="tiny", trigger=Trigger.OPERATOR)
    await world.settled("tiny", "queued", "ready", "failed")


# --- memory ---------------------------------------------------------------------------------------


async def test_a_load_waits_for_no_eviction_but_its_own(world: World) -> None:
    await unloaded(world)
    await stuck_unloading(world, Unavailable("no answer"), "other")
    stuck = [b for b in world.store.view()[2] if b.model == "other"]
    assert available_bytes(CPU, stuck, cap=1.0) > 0
    began = world.clock.monotonic()
    report = await load(world.services, model="tiny", steps=world.steps)
    assert report.outcome == "ready"
    assert world.clock.monotonic() - began < 1.0


# --- runtimes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["loading", "draining"])
async def test_a_runtime_that_is_switched_off_holds_no_model_for_ever(
    world: World, leave: str
) -> None:
    await unloaded(world)
    if leave == "loading":
        await booked(world, weight_bytes=5)
    else:
        await load(world.services, model="tiny")
        accepted(world.store, Unload(model="tiny", reason="idle"))
    world.services = replace(world.services, runtimes={})
    await world.converge()
    assert world.store.model("tiny").state == ("queued" if leave == "loading" else "unloaded")
    assert "ray_serve is switched off" in world.store.model("tiny").reason
    assert not world.store.view()[2]
