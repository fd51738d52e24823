"""The steps of an eviction: whom it waits for, what it leaves, and what is said of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from modelium.errors import LoadFailed, ModeliumError, Unavailable
from modelium.models import GIB, EvictionCause, Report, Trigger, Unload
from modelium.stages import abort as aborting
from modelium.stages import evict as evicting
from modelium.stages.evict import POLL_S, evict, unload, unload_plan
from modelium.stages.load import load
from modelium.stages.unloading import UNLOAD_S
from tests.fakes.devices import CPU
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
    accepted,
    booked,
    configured,
    deployment_of,
    draining,
    events,
    ready,
    registered,
    scripted,
    states,
)

pytestmark = [pytest.mark.unfinished("models without files"), pytest.mark.slow]


def loaded(world: World, *names: str) -> None:
    for name in names or ("tiny",):
        registered(world, name)
        ready(world, name)


def action(name: str = "tiny", **given: Any) -> Unload:
    return Unload(model=name, reason="evicted", **given)


# --- what is asked --------------------------------------------------------------------------------


async def test_a_decision_is_carried_out_and_ended(world: World) -> None:
    loaded(world, "a", "b")
    decision = draining(world, "a", "b")
    report = await evict(world.services, decision=decision)
    assert (report.stage, report.outcome, report.model) == ("evict", "unloaded", None)
    assert (report.reason, report.decision) == ("", decision)
    assert report.details == {"models": {"a": "unloaded", "b": "unloaded"}}
    assert states(world) == {"a": "unloaded", "b": "unloaded"}
    assert world.store.decisions.get(decision).outcome == "done"


async def test_the_last_load_ends_a_decision_that_has_one(world: World) -> None:
    loaded(world)
    registered(world, "next")
    world.store.states.mark_analyzed("next")
    load = {"runtime": "ray_serve", "devices": (CPU.id,), "reserve": {CPU.id: 1}, "reason": ""}
    actions = (action(), {"action": "load", "model": "next", **load})
    decision = accepted(world, *actions, reason="room for the next")
    report = await evict(world.services, models=["tiny"], decision=decision)
    assert (report.outcome, report.model, report.reason) == ("unloaded", "tiny", "evicted")
    assert world.store.decisions.get(decision).outcome == "accepted"


async def test_a_decision_that_unloads_nothing_has_its_own_reason(world: World) -> None:
    decision = accepted(world, reason="nothing to do")
    report = await evict(world.services, decision=decision)
    assert (report.outcome, report.model, report.reason) == ("nothing", None, "nothing to do")
    assert world.store.decisions.get(decision).outcome == "done"


async def test_the_operators_reason_is_the_reports(world: World) -> None:
    loaded(world)
    report = await evict(world.services, models=["tiny"], reason="spring cleaning")
    assert (report.outcome, report.model) == ("unloaded", "tiny")
    assert report.reason == "spring cleaning"
    made = world.store.decisions.get(report.decision or "")
    assert (made.plan.author, made.plan.reason) == ("operator", "spring cleaning")
    loaded(world)
    assert (await evict(world.services, models=["tiny"])).reason == "an operator asked"


@pytest.mark.parametrize("enabled", [True, False])
async def test_without_names_the_fleet_is_swept(world: World, enabled: bool) -> None:
    loaded(world)
    world.clock.advance(1e6)
    world.rule(enabled=enabled)
    script = scripted(world, decide=Report(stage="decide", outcome="planned", reason="idle"))
    report = await evict(world.services)
    if not enabled:
        assert report == Report(
            stage="evict", outcome="nothing", reason="orchestration is disabled"
        )
        assert script.asked == []
        return
    assert report == Report(stage="evict", outcome="planned", reason="idle")
    ((stage, given),) = script.asked
    assert (stage, given["trigger"]) == ("decide", "sweep")
    assert [each.model for each in given["plan"].unloads] == ["tiny"]


async def test_no_names_are_nothing(world: World) -> None:
    loaded(world)
    world.clock.advance(1e6)
    report = await evict(world.services, models=[], reason="why")
    nothing = Report(stage="evict", outcome="nothing", reason="why", details={"models": {}})
    assert report == nothing
    assert states(world) == {"tiny": "ready"}


async def test_a_model_that_is_queued_leaves_the_queue_with_a_reason(world: World) -> None:
    registered(world)
    booked(world)
    world.store.states.requeue("tiny", reason="no room")
    report = await evict(world.services, models=["tiny"])
    assert report.outcome == "nothing"
    record = world.store.model("tiny")
    assert (record.state, record.reason) == ("unloaded", "an operator took it off the queue")


async def test_a_model_that_failed_is_not_tried_again_by_itself(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.failure = LoadFailed("bad magic")
    with pytest.raises(LoadFailed):
        await load(world.services, model="tiny", steps=world.steps)
    assert world.store.model("tiny").retry_at is not None
    await evict(world.services, models=["tiny"])
    record = world.store.model("tiny")
    assert (record.state, record.retry_at, record.failures) == ("unloaded", None, 1)
    assert record.reason == "an operator ended its attempts"


async def test_what_holds_memory_beside_what_is_aborted_is_unloaded_too(world: World) -> None:
    loaded(world)
    registered(world, "other")
    booked(world, "other")
    report = await evict(world.services, models=["other", "tiny"])
    assert report.details == {"models": {"tiny": "unloaded"}}
    assert states(world) == {"other": "unloaded", "tiny": "unloaded"}
    assert world.store.model("other").reason == aborting.REASON


# --- joining --------------------------------------------------------------------------------------


async def test_an_eviction_that_nobody_is_at_is_continued(world: World) -> None:
    loaded(world, "a", "b", "c")
    draining(world, "a")
    registered(world, "d")
    booked(world, "d")
    report = await evict(world.services, models=["a"], reason="now")
    assert (report.outcome, report.model, report.reason) == ("unloaded", "a", "now")
    assert report.details == {"models": {"a": "unloaded"}}
    draining(world, "b")
    report = await evict(world.services, models=["b", "d"])
    assert (report.outcome, report.model) == ("unloaded", None)
    assert report.details == {"models": {"d": "aborted", "b": "unloaded"}}
    assert world.store.model("b").reason == "evicted"
    async with world.services.switchboard.admit("c"):
        draining(world, "c")
        busy = await evict(world.services, models=["c"])
    assert (busy.outcome, busy.details) == ("busy", {"models": {"c": "busy"}})


@pytest.mark.parametrize("end", ["unloaded", "ready", "never"])
async def test_an_eviction_that_goes_on_is_waited_for(world: World, end: str) -> None:
    loaded(world)
    configured(world, "gateway", drain_grace_seconds=10.0)
    draining(world)
    world.clock.advance(1000.0)
    world.clock.hurried = end == "never"
    with world.services.owners.of("tiny"):
        joining = asyncio.create_task(evict(world.services, models=["tiny"], reason="now"))
        if end == "never":
            with pytest.raises(ModeliumError, match="tiny is still draining: evicted"):
                await joining
            assert sum(world.clock.slept) == pytest.approx(10.0 + UNLOAD_S, abs=2 * POLL_S)
            return
        for _ in range(2):
            await world.clock.asleep()
            world.clock.advance(POLL_S)
        await world.clock.asleep()
        if end == "ready":
            world.store.states.cancel_eviction("tiny", reason="busy")
        else:
            world.store.states.start_unloading("tiny", reason="evicted")
            world.store.states.release("tiny", reason="evicted", evicted=True)
        world.clock.advance(POLL_S)
        report = await joining
    assert (report.outcome, report.model, report.reason) == ("unloaded", "tiny", "now")
    again = [("tiny", 10.0)] if end == "ready" else []
    assert world.runtime.unloads == again, "what stayed busy is tried once more"


@pytest.mark.parametrize(
    ("ended", "outcome", "model", "reason"),
    [
        ({"a": "aborted"}, "aborted", "a", "the load of a was aborted"),
        ({"a": "aborted", "b": "aborted"}, "aborted", None, "the load of a, b was aborted"),
        ({"a": "aborted", "b": "unloaded"}, "unloaded", None, "why"),
        ({"a": "busy", "b": "unloaded"}, "busy", None, "why"),
        ({"a": "unloaded"}, "unloaded", "a", "why"),
    ],
)
def test_the_worst_end_is_that_of_all(
    ended: dict[str, str], outcome: str, model: str | None, reason: str
) -> None:
    assert evicting._report_ended(ended, "why") == Report(
        stage="evict", outcome=outcome, model=model, reason=reason, details={"models": ended}
    )


@pytest.mark.parametrize("requeue", [False, True])
def test_a_plan_to_unload_one_model_is_about_it(requeue: bool) -> None:
    plan = unload_plan(["a"], cause=EvictionCause.REPLACED, reason="newer", requeue=requeue)
    assert (plan.author, plan.trigger, plan.subject, plan.reason) == (
        "operator",
        Trigger.OPERATOR,
        "a",
        "newer",
    )
    assert plan.actions == (
        Unload(model="a", cause=EvictionCause.REPLACED, reason="newer", requeue=requeue),
    )
    assert unload_plan(["a", "b"], cause=EvictionCause.IDLE, reason="").subject is None
    assert not unload_plan(["a"], cause=EvictionCause.IDLE, reason="").unloads[0].requeue


# --- one model ------------------------------------------------------------------------------------


async def test_what_is_not_leaving_is_left_alone(world: World) -> None:
    loaded(world)
    assert await unload(world.services, action()) == "ready"
    assert world.services.switchboard.upstream("tiny") is not None
    assert world.runtime.unloads == []


async def test_a_model_is_closed_drained_unloaded_and_released(world: World) -> None:
    loaded(world)
    configured(world, "gateway", drain_grace_seconds=7.0)
    world.clock.advance(100.0)
    draining(world)
    assert await unload(world.services, action(cause=EvictionCause.SPACE)) == "unloaded"
    assert world.runtime.unloads == [("tiny", 7.0)]
    record = world.store.model("tiny")
    assert (record.state, record.reason, record.deployment) == ("unloaded", "evicted", None)
    assert record.evicted_at is not None and record.queued_at is None
    assert world.services.switchboard.upstream("tiny") is None
    assert events(world, "model.evicted") == [("tiny", {"version": 1, "reason": "evicted"})]
    assert 'modelium_evictions_total{reason="space"} 1.0' in world.exposed()


async def test_an_idle_model_says_how_long_it_was(world: World) -> None:
    loaded(world)
    await world.request()
    world.clock.advance(50.0)
    draining(world)
    await unload(world.services, action(cause=EvictionCause.IDLE))
    expected = {"version": 1, "reason": "evicted", "idle_s": 50}
    assert events(world, "model.evicted") == [("tiny", expected)]


async def test_a_model_that_is_to_be_loaded_again_is_queued(world: World) -> None:
    loaded(world)
    draining(world, requeue=True)
    await unload(world.services, action(requeue=True))
    record = world.store.model("tiny")
    assert (record.state, record.reason) == ("queued", "evicted")
    assert record.queued_at is not None and record.evicted_at is not None


async def test_an_unload_that_was_begun_is_not_drained_again(world: World) -> None:
    loaded(world)
    async with world.services.switchboard.admit("tiny"):
        draining(world)
        world.store.states.start_unloading("tiny", reason="evicted")
        assert await unload(world.services, action()) == "unloaded"


@pytest.mark.parametrize("removed", [False, True])
async def test_a_busy_model_stays_open_unless_it_is_removed(world: World, removed: bool) -> None:
    loaded(world)
    async with world.services.switchboard.admit("tiny"):
        draining(world)
        if removed:
            world.store.lineage.begin_removal("tiny", by="me", purge=False)
        outcome = await unload(world.services, action())
    board = world.services.switchboard
    if removed:
        assert (outcome, states(world)) == ("unloaded", {"tiny": "unloaded"})
        assert board.upstream("tiny") is None
        return
    assert (outcome, states(world)) == ("busy", {"tiny": "ready"})
    record = world.store.model("tiny")
    assert record.reason == "requests were still in flight after 0 s"
    assert board.upstream("tiny") is not None and not world.store.view()[2][0].releasing
    assert world.runtime.unloads == [] and events(world, "model.evicted") == []


async def test_the_twin_of_a_model_is_evicted_in_its_name(world: World) -> None:
    loaded(world)
    registered(world, version=2)
    world.store.twins.stand_by("tiny")
    ready(world, "tiny@2")
    draining(world, "tiny@2")
    await unload(world.services, action("tiny@2"))
    assert events(world, "model.evicted") == [("tiny", {"version": 2, "reason": "evicted"})]


async def test_one_unload_that_fails_is_raised_once_all_have_ended(world: World) -> None:
    loaded(world, "a", "b", "c")
    world.runtime.unload_failures["b"] = Unavailable("no answer")
    decision = draining(world, "a", "b", "c")
    with pytest.raises(Unavailable, match="no answer"):
        await evict(world.services, decision=decision, steps=world.steps)
    assert states(world) == {"a": "unloaded", "b": "unloading", "c": "unloaded"}
    assert world.store.decisions.get(decision).outcome == "accepted"


async def test_those_that_stay_busy_are_named(world: World) -> None:
    loaded(world, "a", "b", "c")
    async with (
        world.services.switchboard.admit("a"),
        world.services.switchboard.admit("c"),
    ):
        decision = draining(world, "a", "b", "c")
        report = await evict(world.services, decision=decision)
    assert (report.outcome, report.model) == ("unloaded", None)
    assert report.details == {"models": {"a": "busy", "b": "unloaded", "c": "busy"}}
    made = world.store.decisions.get(decision)
    assert (made.outcome, made.detail) == ("failed", "still busy: a, c")


@pytest.mark.parametrize(
    ("stays", "alone", "kept"), [(GIB, True, [GIB]), (0, True, []), (GIB, False, [])]
)
async def test_memory_that_did_not_come_back_is_named(
    world: World, stays: int, alone: bool, kept: list[int]
) -> None:
    gpu = CPU.model_copy(update={"kind": "gpu", "free_bytes": 2 * GIB})
    world.devices.devices = (gpu,)
    loaded(world, "other", "tiny")
    held = {("tiny", gpu.id): 3 * GIB, ("other", gpu.id): GIB}
    world.store.history.record_memory(held, {})
    world.runtime.unload_gate.clear()
    draining(world)
    unloading = asyncio.create_task(unload(world.services, action()))
    await world.settled("tiny", "unloading")
    while not world.services.activity._running:  # noqa: ASYNC110 - a few steps
        await asyncio.sleep(0)
    await asyncio.to_thread(lambda: None)
    if not alone:
        with world.services.activity.on([gpu.id]):
            pass
    await world.idle()
    world.devices.devices = (gpu.model_copy(update={"free_bytes": 5 * GIB - stays}),)
    world.runtime.unload_gate.set()
    await unloading
    expected = [{"runtime": "ray_serve", "device": gpu.id, "bytes": each} for each in kept]
    assert events(world, "memory.kept") == [("tiny", each) for each in expected]


# --- aborting -------------------------------------------------------------------------------------


async def test_a_load_that_nobody_is_at_is_ended_in_the_runtime_too(world: World) -> None:
    registered(world)
    booked(world)
    await aborting.abort(world.services, "tiny")
    assert world.runtime.unloads == [("tiny", 0.0)]
    assert world.store.model("tiny").reason == aborting.REASON
    assert states(world) == {"tiny": "unloaded"} and "tiny" not in world.services.owners


async def test_a_load_in_a_runtime_that_is_switched_off_ends_in_the_store(world: World) -> None:
    registered(world)
    booked(world)
    world.services = replace(world.services, runtimes={})
    await aborting.cancelled(world.services, "tiny", reason="why")
    assert (world.store.model("tiny").state, world.store.model("tiny").reason) == (
        "unloaded",
        "why",
    )


async def test_a_load_that_the_runtime_does_not_end_keeps_its_memory(world: World) -> None:
    registered(world)
    booked(world)
    world.runtime.unload_failure = Unavailable("no answer")
    with pytest.raises(Unavailable, match="no answer"):
        await aborting.abort(world.services, "tiny")
    record = world.store.model("tiny")
    assert (record.state, record.reason) == ("unloading", aborting.REASON)
    assert world.store.view()[2] and deployment_of(world).name == "tiny"
    with pytest.raises(Unavailable, match="has not ended the load of tiny yet"):
        await aborting.abort(world.services, "tiny")


async def test_what_is_ready_by_now_stays(world: World) -> None:
    loaded(world)
    await aborting.abort(world.services, "tiny")
    assert states(world) == {"tiny": "ready"} and world.runtime.unloads == []
