"""A loaded model is switched to another version without a refused request, or returns."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa

from modelium.control.operations import Operations
from modelium.control.recovery import recover
from modelium.errors import InputError, LoadFailed, StoreUnavailable
from modelium.lifecycle import ModelState
from modelium.models import EvictionCause, Model
from modelium.stages.evict import evict, unload_plan
from modelium.stages.snapshot import snapshot
from modelium.stages.switching import LEFT_S, conclude
from modelium.store import queries, schema
from modelium.store.faults import Fault
from tests.fakes.runtime import upstream
from tests.modelium.conftest import World
from tests.modelium.stages.test_analyze import only_one_fits

pytestmark = pytest.mark.slow

READY = ModelState.READY


async def step(world: World) -> None:
    """Do what the control loop does for switches, and wait for it."""
    await conclude(world.services, await snapshot(world.services))
    await world.launcher._background.wait(timeout_s=60)


async def switched(world: World, version: int = 2) -> Model:
    """Drop another version, and wait until it serves."""
    await world.drop(weight=float(version))
    return await serves(world, version)


async def serves(world: World, version: int) -> Model:
    def holds() -> bool:
        record = world.store.model("tiny")
        found = world.services.switchboard.answers("tiny").version
        return record.state is READY and not record.outdated and found == version

    await world.eventually(holds)
    return world.store.model("tiny")


async def answer(world: World, *, failed: bool = False) -> str:
    """Send a request as the gateway does; return what answers it."""
    board = world.services.switchboard
    async with board.admit("tiny") as upstream:
        board.judge("tiny", upstream, failed=failed)
        return upstream.served_name


def twins(world: World) -> dict[str, str]:
    _revision, models, _bookings = world.store.view()
    return {m.name: m.state.value for m in models if m.twin_of == "tiny"}


# --- both fit -------------------------------------------------------------------------------------


async def test_no_request_is_refused_or_held_while_a_version_is_replaced(world: World) -> None:
    await world.load()
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    await world.drop(weight=2.0)
    await world.runtime.asked.wait()
    assert [await answer(world) for _ in range(3)] == ["tiny"] * 3  # while the other one loads
    assert twins(world) == {"tiny@2": "loading"}
    world.runtime.gate.set()
    record = await serves(world, 2)
    assert await answer(world) == "tiny@2"
    assert record.deployment is not None and record.deployment.name == "tiny@2"
    assert twins(world) == {"tiny@1": "ready"} and set(world.runtime.held) == {"tiny", "tiny@2"}
    booked = {b.model for b in world.store.view()[2]}
    assert booked == {"tiny", "tiny@1"}
    assert 'modelium_cold_starts_total{model="tiny"}' not in world.exposed()


async def test_the_version_before_stays_until_the_trial_is_passed(world: World) -> None:
    await world.load()
    await switched(world)
    for _ in range(19):
        await answer(world)
    await step(world)
    assert set(world.runtime.held) == {"tiny", "tiny@2"} and not world.store.model("tiny").proven
    await answer(world)
    await step(world)
    assert set(world.runtime.held) == {"tiny@2"} and not twins(world)
    assert world.store.model("tiny").proven
    assert [b.model for b in world.store.view()[2]] == ["tiny"]


async def test_a_trial_without_requests_ends_with_its_time(world: World) -> None:
    await world.load()
    await switched(world)
    await step(world)
    assert twins(world) == {"tiny@1": "ready"}
    world.clock.advance(61.0)
    await step(world)
    assert not twins(world) and set(world.runtime.held) == {"tiny@2"}


async def test_requests_in_flight_end_on_the_version_that_they_began_on(world: World) -> None:
    await world.load()
    async with world.services.switchboard.admit("tiny") as old:
        await switched(world)
        assert old.served_name == "tiny"
        world.clock.advance(61.0)
        await step(world)
        assert set(world.runtime.held) == {"tiny", "tiny@2"}  # it is not cut off
        assert await answer(world) == "tiny@2"
    world.clock.advance(61.0)
    await step(world)
    assert set(world.runtime.held) == {"tiny@2"} and not twins(world)


async def test_a_version_that_fails_its_first_requests_gives_way_again(world: World) -> None:
    await world.load()
    await switched(world)
    for _ in range(3):
        await answer(world, failed=True)
    await step(world)
    record = await serves(world, 1)
    assert await answer(world) == "tiny" and record.version == 1
    await step(world)
    assert set(world.runtime.held) == {"tiny"} and not twins(world)
    event = await world.event("model.rolled-back")
    assert "3 of its first 3 requests failed" in event.detail["reason"]
    decisions = world.store.decisions.newest(model="tiny")
    assert any("version 1 replaces version 2" in d.plan.reason for d in decisions)


async def test_two_failed_requests_alone_fail_the_trial_when_its_time_is_over(
    world: World,
) -> None:
    await world.load()
    await switched(world)
    await answer(world, failed=True)
    await step(world)
    assert await answer(world, failed=True) == "tiny@2"
    world.clock.advance(61.0)
    await step(world)
    await serves(world, 1)


async def test_a_version_that_cannot_be_loaded_leaves_the_other_one_serving(world: World) -> None:
    await world.load()
    world.runtime.failure = LoadFailed("bad magic")
    await world.drop(weight=2.0)
    event = await world.event("model.rolled-back")
    assert (event.detail["version"], event.detail["was"]) == (1, 2)
    await world.launcher._background.wait(timeout_s=60)
    record = world.store.model("tiny")
    assert (record.state, record.version, record.outdated) == (READY, 1, False)
    assert await answer(world) == "tiny" and not twins(world)
    assert [b.model for b in world.store.view()[2]] == ["tiny"]


async def test_a_version_that_dies_on_trial_gives_way_to_the_one_before(world: World) -> None:
    await world.load()
    await switched(world)
    world.store.states.requeue("tiny", reason="the runtime no longer has it")
    world.services.switchboard.close("tiny")
    waiting = asyncio.create_task(answer(world))
    await step(world)
    assert await waiting == "tiny"
    assert (await serves(world, 1)).version == 1


async def test_a_pinned_model_is_switched_and_its_twin_is_evicted_for_nobody(world: World) -> None:
    await world.load()
    world.store.rules.set_pinned("tiny", True)
    await switched(world)
    _revision, models, _bookings = world.store.view()
    assert {m.name: m.pinned for m in models} == {"tiny": True, "tiny@1": False}
    with pytest.raises(InputError, match="being switched"):
        await Operations(services=world.services).unload("tiny@1")


async def test_an_operator_rolls_back_during_the_trial(world: World) -> None:
    await world.load()
    await switched(world)
    operations = Operations(services=world.services)
    await operations.versions.rollback("tiny", by="me")
    await serves(world, 1)
    assert world.runtime.loads == 2  # the version before was still loaded
    await step(world)
    assert set(world.runtime.held) == {"tiny"} and not twins(world)
    await operations.aclose()


async def test_a_third_version_waits_for_the_end_of_the_switch(world: World) -> None:
    await world.load()
    await switched(world)
    await world.drop(weight=3.0)
    await world.launcher._background.wait(timeout_s=60)
    assert set(world.runtime.held) == {"tiny", "tiny@2"}
    world.clock.advance(61.0)
    await step(world)
    await serves(world, 3)


async def test_a_model_is_removed_in_the_middle_of_a_switch(world: World) -> None:
    await world.load()
    await switched(world)
    operations = Operations(services=world.services)
    await operations.versions.remove("tiny", by="me", purge=False, force=False)
    await world.event("model.removed")
    assert not world.runtime.held and not world.store.view()[1] and not world.store.view()[2]
    await operations.aclose()


async def test_a_model_that_is_unloaded_during_the_trial_stays_so(world: World) -> None:
    await world.load()
    await switched(world)
    await evict(world.services, models=["tiny"])
    await step(world)
    assert not world.runtime.held and not twins(world)
    assert world.store.model("tiny").state is ModelState.UNLOADED


# --- both do not fit ------------------------------------------------------------------------------


async def test_where_both_do_not_fit_the_swap_is_explained(world: World) -> None:
    await world.load()
    only_one_fits(world)
    await switched(world)
    assert set(world.runtime.held) == {"tiny@2"} and not twins(world)
    reasons = [d.plan.reason for d in world.store.decisions.newest(model="tiny")]
    assert any("both at once: does not fit beside the version" in reason for reason in reasons)


async def test_a_swap_returns_to_the_version_before_if_the_load_fails(world: World) -> None:
    await world.load()
    only_one_fits(world)
    failure = LoadFailed("bad magic")
    world.runtime.failure = failure
    await world.drop(weight=2.0)
    await world.event("model.rolled-back")
    world.runtime.failure = None
    record = await serves(world, 1)
    assert record.version == 1 and set(world.runtime.held) == {"tiny"}


async def test_a_swapped_version_that_fails_its_first_requests_is_swapped_back(
    world: World,
) -> None:
    await world.load()
    only_one_fits(world)
    await switched(world)
    for _ in range(3):
        await answer(world, failed=True)
    await step(world)
    await serves(world, 1)
    assert set(world.runtime.held) == {"tiny"}


# --- restarts -------------------------------------------------------------------------------------


def restart(world: World) -> None:
    """Forget what lives in memory alone."""
    world.services = replace(world._services(world.services.config), brain=world.services.brain)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("point", ["registered", "loading", "ready", "trial", "back", "draining"])
async def test_a_restart_anywhere_ends_with_one_version_that_serves(
    world: World, point: str, fails: bool
) -> None:
    await world.load()
    if point in ("registered", "loading", "ready"):
        world.runtime.gate.clear()
        world.runtime.asked.clear()
        await world.drop(weight=2.0)
        await world.runtime.asked.wait()
        await world.launcher.aclose()  # a crash: nothing runs any more
        world.runtime.gate.set()
        twin = world.store.find("tiny@2")
        if point == "registered":
            world.store.twins.drop("tiny@2")
        elif twin is not None and twin.state is ModelState.UNLOADED:
            _book_again(world, point)
    else:
        await switched(world)
        if point == "back":
            world.store.twins.exchange("tiny", "tiny@1", reason="failed")
        if point == "draining":
            _drain(world)
        await world.launcher.aclose()
    if fails:
        world.runtime.failure = LoadFailed("bad magic")
    restart(world)
    await world.services.runtime_monitor.observe({})
    await recover(world.services)
    for _ in range(6):
        await world.launcher._background.wait(timeout_s=60)
        world.clock.advance(400.0)
        await step(world)
    record = world.store.model("tiny")
    assert record.state is READY and not record.outdated and not twins(world)
    assert record.deployment is not None
    assert set(world.runtime.held) == {record.deployment.name}
    assert await answer(world) == record.deployment.name
    assert {b.model for b in world.store.view()[2]} == {"tiny"}


def _book_again(world: World, point: str) -> None:
    """Put the twin into the state that a crash leaves: the cancelled load has cleaned up."""
    base = world.store.model("tiny").deployment
    assert base is not None
    with world.store._engine.begin() as tx:
        queries.transition(tx, "tiny@2", ModelState.LOADING, world.clock.time())
        twin = base.model_copy(
            update={"model": "tiny@2", "version": 2, "instance": "tiny@2", "upstream": None}
        )
        queries.save_deployment(tx, twin)
        for booking in queries.bookings(tx):
            held = booking.model_dump() | {"model": "tiny@2", "resident_bytes": 0}
            tx.execute(sa.insert(schema.bookings).values(held))
    if point == "ready":
        world.runtime.held["tiny@2"] = upstream("tiny@2")
        ready = twin.model_copy(update={"upstream": upstream("tiny@2")})
        world.store.states.mark_ready("tiny@2", ready)


def _drain(world: World) -> None:
    world.store.lineage.prove("tiny", 2)
    plan = unload_plan(["tiny@1"], cause=EvictionCause.REPLACED, reason="replaced")
    plan = plan.model_copy(update={"revision": world.store.revision()})
    world.store.accept(plan, snapshot_digest="", trace={})


# --- begun again ----------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 4])
async def test_a_switch_whose_begin_failed_is_begun_again(
    world: World, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    await world.load()
    real, left = world.services.store.twins.stand_by, [True] * failures

    async def stand_by(name: str) -> Model:
        if left:
            left.pop()
            raise StoreUnavailable("database or disk is full", reason=Fault.FULL)
        return await real(name)

    monkeypatch.setattr(world.services.store.twins, "stand_by", stand_by)
    await world.drop(weight=2.0)
    await world.launcher._background.wait(timeout_s=60)
    assert world.store.model("tiny").outdated
    await step(world)
    world.clock.advance(LEFT_S)
    await step(world)
    assert left == []
    await serves(world, 2)


async def test_a_switch_that_is_being_begun_is_not_begun_twice(world: World) -> None:
    await world.load()
    world.launcher.start = lambda run: None  # type: ignore[method-assign]
    await world.drop(weight=2.0)
    world.ran.clear()
    fleet = await snapshot(world.services)
    begun: list[object] = []
    world.launcher.start = begun.append  # type: ignore[method-assign, assignment]
    with world.services.examiners.of("tiny"):
        await conclude(world.services, fleet)
    async with world.services.turns.of("tiny"):
        await conclude(world.services, fleet)
    assert begun == []
    for seconds, times in ((0.0, 1), (LEFT_S - 1.0, 1), (1.0, 2)):
        world.clock.advance(seconds)
        await conclude(world.services, fleet)
        assert len(begun) == times
