"""How a model that nobody is at is driven on or back, and what its decision becomes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelium.errors import Unavailable
from modelium.models import Load, Model, RuntimeName, Unload
from modelium.stages import settling
from modelium.stages.settling import DECISIONS_READ, converge, settle
from tests.fakes.devices import CPU
from tests.fakes.runtime import upstream
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
    accepted,
    background,
    booked,
    deployment_of,
    draining,
    events,
    ready,
    registered,
    scripted,
    states,
)

pytestmark = pytest.mark.unfinished("models without files")


def loading(world: World, name: str = "tiny") -> str:
    registered(world, name)
    return booked(world, name)


def leaving(world: World, **given: Any) -> str:
    registered(world)
    ready(world)
    return draining(world, **given)


def ending(world: World, decision: str) -> tuple[str, str]:
    made = world.store.decisions.get(decision)
    return made.outcome, made.detail


# --- loads ----------------------------------------------------------------------------------------


async def test_a_load_that_the_runtime_has_ready_is_opened(world: World) -> None:
    world.clock.advance(100.0)
    decision = loading(world)
    world.clock.advance(9.0)
    world.runtime.held["tiny"] = upstream("tiny")
    world.runtime.shown["tiny"] = {"handle": {"pid": 7}}
    await settle(world.services, "tiny", why="its run ended")
    found = deployment_of(world)
    assert (found.upstream, found.handle) == (upstream("tiny"), {"pid": 7})
    assert found.load_s == pytest.approx(9.0, abs=0.01)
    assert ending(world, decision) == ("done", "")
    assert await world.request() == "tiny"
    assert world.runtime.unloads == [] and "tiny" not in world.services.owners


async def test_a_load_that_began_in_the_future_has_taken_no_time(world: World) -> None:
    loading(world)
    world.clock.step(-500.0)
    world.runtime.held["tiny"] = upstream("tiny")
    await settle(world.services, "tiny", why="")
    assert deployment_of(world).load_s == 0.0


@pytest.mark.parametrize("why", ["removed", "outdated", "loading", "without address", "silent"])
async def test_any_other_load_is_undone_and_queued_again(world: World, why: str) -> None:
    decision = loading(world)
    other = loading(world, "other")
    world.runtime.held["tiny"] = upstream("tiny")
    if why == "removed":
        world.store.lineage.begin_removal("tiny", by="me", purge=False)
    elif why == "outdated":
        registered(world, version=2)
    elif why == "loading":
        world.runtime.states["tiny"] = "loading"
    elif why == "without address":
        world.runtime.held["tiny"] = None  # type: ignore[assignment]
    else:
        world.runtime.healthy = False
    world.services.switchboard.open("tiny", upstream("tiny"))
    await settle(world.services, "tiny", why="its run ended")
    assert states(world) == {"other": "loading", "tiny": "queued"}
    assert world.store.model("tiny").reason == "its run ended while loading"
    assert world.runtime.unloads == [("tiny", 0.0)]
    assert ending(world, decision) == ("failed", "its run ended while loading")
    assert ending(world, other) == ("accepted", "")
    assert world.services.switchboard.upstream("tiny") is None
    assert [b.model for b in world.store.view()[2]] == ["other"]


@pytest.mark.parametrize("insist", [False, True])
@pytest.mark.parametrize("held", [False, True])
async def test_a_runtime_that_does_not_undo_a_load_is_believed_the_second_time(
    world: World, insist: bool, held: bool
) -> None:
    decision = loading(world)
    if held:
        world.runtime.held["tiny"] = upstream("tiny")
        world.runtime.states["tiny"] = "loading"
    world.runtime.unload_failure = Unavailable("no answer")
    if insist and not held:
        await settle(world.services, "tiny", why="its run ended", insist=True)
        assert states(world) == {"tiny": "queued"}
        assert ending(world, decision)[0] == "failed"
        return
    with pytest.raises(Unavailable, match="no answer"):
        await settle(world.services, "tiny", why="its run ended", insist=insist)
    assert states(world) == {"tiny": "loading"} and world.store.view()[2]
    assert ending(world, decision) == ("accepted", "")


async def test_a_load_whose_decision_is_not_known_is_opened_all_the_same(world: World) -> None:
    decision = loading(world)
    world.store.decisions.finish(decision, outcome="done")
    world.runtime.held["tiny"] = upstream("tiny")
    await settle(world.services, "tiny", why="")
    assert states(world) == {"tiny": "ready"}


# --- evictions ------------------------------------------------------------------------------------


async def test_an_eviction_goes_on_as_it_was_decided(world: World) -> None:
    decision = leaving(world, requeue=True, cause="space")
    await settle(world.services, "tiny", why="")
    assert states(world) == {"tiny": "queued"} and world.runtime.unloads == [("tiny", 0.0)]
    assert 'modelium_evictions_total{reason="space"} 1.0' in world.exposed()
    assert ending(world, decision) == ("done", "")


async def test_an_eviction_of_a_decision_with_loads_is_ended_by_the_last_of_them(
    world: World,
) -> None:
    registered(world)
    ready(world)
    registered(world, "next")
    world.store.states.mark_analyzed("next")
    load = Load(
        model="next",
        runtime=RuntimeName.RAY_SERVE,
        devices=(CPU.id,),
        reserve={CPU.id: 1},
        reason="",
    )
    decision = accepted(world, load, Unload(model="tiny", reason="evicted", requeue=True))
    await settle(world.services, "tiny", why="")
    assert states(world) == {"next": "loading", "tiny": "queued"}
    assert ending(world, decision) == ("accepted", "")


async def test_an_eviction_whose_decision_is_not_known_unloads(world: World) -> None:
    decision = leaving(world, requeue=True)
    world.store.decisions.finish(decision, outcome="done")
    await settle(world.services, "tiny", why="")
    assert states(world) == {"tiny": "unloaded"}
    assert world.store.model("tiny").reason == "evicted"


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("insist", [False, True])
async def test_an_eviction_that_the_runtime_does_not_do_is_believed_the_second_time(
    world: World, insist: bool, begun: bool
) -> None:
    decision = leaving(world, requeue=True)
    if begun:
        world.store.states.start_unloading("tiny", reason="evicted")
    world.runtime.held.clear()
    world.runtime.unload_failure = Unavailable("no answer")
    if insist:
        await settle(world.services, "tiny", why="", insist=True)
        assert states(world) == {"tiny": "queued"} and world.store.view()[2] == ()
        assert world.store.model("tiny").reason == "evicted"
        assert events(world, "model.evicted") == [("tiny", {"version": 1, "reason": "evicted"})]
        assert ending(world, decision) == ("done", "")
        return
    with pytest.raises(Unavailable, match="no answer"):
        await settle(world.services, "tiny", why="")
    assert states(world) == {"tiny": "unloading"} and world.store.view()[2]
    assert ending(world, decision) == ("accepted", "")


async def test_what_is_still_listed_or_not_known_stays_booked(world: World) -> None:
    leaving(world)
    world.runtime.unload_failure = Unavailable("no answer")
    with pytest.raises(Unavailable, match="no answer"):
        await settle(world.services, "tiny", why="", insist=True)
    world.runtime.held.clear()
    world.runtime.healthy = False
    with pytest.raises(Unavailable, match="ray_serve is not healthy: it does not answer"):
        await settle(world.services, "tiny", why="", insist=True)
    world.runtime.healthy, world.runtime.discover_failure = True, OSError("refused")
    with pytest.raises(Unavailable, match="ray_serve is not healthy: it cannot be looked at"):
        await settle(world.services, "tiny", why="", insist=True)
    assert states(world) == {"tiny": "unloading"} and world.store.view()[2]


# --- what is left alone ---------------------------------------------------------------------------


async def test_what_is_at_rest_or_gone_is_not_settled(world: World) -> None:
    registered(world)
    ready(world)
    before = world.store.revision()
    await settle(world.services, "tiny", why="")
    await settle(world.services, "never-there", why="")
    assert world.store.revision() == before and world.runtime.unloads == []
    record = world.store.model("tiny")
    for gone in (record, record.model_copy(update={"name": "never-there"})):
        await settling._leave(world.services, gone, reason="x")
    assert world.store.revision() == before
    assert world.services.switchboard.upstream("tiny") is not None


@pytest.mark.parametrize("state", ["loading", "draining", "unloading"])
async def test_nothing_is_asked_of_a_runtime_that_is_switched_off(world: World, state: str) -> None:
    if state == "loading":
        loading(world)
    else:
        leaving(world)
    if state == "unloading":
        world.store.states.start_unloading("tiny", reason="evicted")
    world.services = replace(world.services, runtimes={})
    await settle(world.services, "tiny", why="its run ended")
    record = world.store.model("tiny")
    assert record.state == ("queued" if state == "loading" else "unloaded")
    assert record.reason == (
        "ray_serve is switched off in the configuration, so nothing of it is managed there"
    )
    assert world.runtime.unloads == [] and world.store.view()[2] == ()


def test_what_has_no_deployment_has_nothing_loaded() -> None:
    assert settling._unmanaged(None) == "nothing of it is loaded"


# --- decisions ------------------------------------------------------------------------------------


async def found(world: World) -> str | None:
    model: Model = world.store.model("tiny")
    decision = await settling.transition_of(world.services, model)
    return decision.id if decision else None


async def test_the_decision_of_a_transition_is_the_newest_open_one_of_its_kind(
    world: World,
) -> None:
    first = loading(world)
    assert await found(world) == first
    world.store.states.cancel_load("tiny", reason="")
    second = booked(world)
    assert await found(world) == second
    for _ in range(DECISIONS_READ - 1):
        accepted(world, subject="tiny")
    assert await found(world) == second
    accepted(world, subject="tiny")
    assert await found(world) is None, "too many came after it"


async def test_a_decision_that_has_ended_or_is_of_another_kind_is_not_it(world: World) -> None:
    load = loading(world)
    world.store.decisions.finish(load, outcome="failed", detail="locked")
    assert await found(world) == load, "a failed one may have been booked"
    world.store.states.cancel_load("tiny", reason="")
    world.store.decisions.finish(done := booked(world), outcome="done")
    assert await found(world) == load != done
    world.store.states.cancel_load("tiny", reason="")
    again = booked(world)
    world.store.states.mark_ready("tiny", deployment_of(world))
    registered(world, "other")
    ready(world, "other")
    evicted = accepted(
        world, Unload(model="other", reason="first"), Unload(model="tiny", reason="x")
    )
    assert await found(world) == evicted
    world.store.decisions.finish(evicted, outcome="done")
    assert await found(world) is None, f"{again} loaded it"


# --- attempts -------------------------------------------------------------------------------------


async def test_the_second_attempt_insists(world: World) -> None:
    leaving(world)
    world.store.states.start_unloading("tiny", reason="evicted")
    world.runtime.held.clear()
    world.runtime.unload_failure = Unavailable("no answer")
    seen = []
    for pause in (0.0, 5.1):
        world.clock.advance(pause)
        await converge(world.services, world.store.view()[1], grace_s=0.0)
        await background(world)
        seen.append(states(world)["tiny"])
    assert seen == ["unloading", "unloaded"]
    assert "tiny" not in world.services.owners


async def test_an_attempt_is_reported_with_its_reason(world: World) -> None:
    leaving(world)
    attempt = settling._Settling(world.services, "tiny", "its run ended")
    assert str(attempt) == "settle tiny"
    report = await attempt
    assert (report.stage, report.outcome, report.model, report.reason) == (
        "evict",
        "settled",
        "tiny",
        "its run ended",
    )


async def test_an_orphan_is_left_alone_for_the_grace(world: World) -> None:
    leaving(world)
    scripted(world)
    for pause, state in (
        (0.0, "draining"),
        (settling.GRACE_S - 0.1, "draining"),
        (0.2, "unloaded"),
    ):
        world.clock.advance(pause)
        await converge(world.services, world.store.view()[1])
        await background(world)
        assert states(world) == {"tiny": state}
