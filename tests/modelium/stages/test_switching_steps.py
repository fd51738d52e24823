"""The single steps of a switch: what begins it, what ends it, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from modelium.errors import FailureKind, LoadFailed
from modelium.lifecycle import ModelState
from modelium.models import Model, Report, Setbacks
from modelium.stages import switching
from modelium.stages.snapshot import snapshot
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
    Script,
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

pytestmark = [pytest.mark.unfinished("models without files"), pytest.mark.slow]

LOADS = Report(stage="decide", outcome="load")


def outdated(world: World, name: str = "tiny") -> Model:
    """Version 1 is loaded and proven; version 2 is the current one."""
    registered(world, name)
    ready(world, name)
    return registered(world, name, version=2)


def both_ready(world: World, name: str = "tiny") -> Model:
    """Version 1 serves, and version 2 is loaded beside it; return the latter."""
    outdated(world, name)
    world.store.twins.stand_by(name)
    return ready(world, f"{name}@2")


async def on_trial(world: World, name: str = "tiny") -> Model:
    """Version 2 serves, and version 1 is still loaded."""
    await switching.complete(world.services, both_ready(world, name))
    assert states(world) == {name: "ready", f"{name}@1": "ready"}
    return world.store.model(name)


async def conclude(world: World, *, at_start: bool = False) -> None:
    await switching.conclude(world.services, await snapshot(world.services), at_start=at_start)
    await background(world)


def answered(world: World, *, failed: Sequence[bool], name: str = "tiny") -> None:
    board = world.services.switchboard
    where = board.upstream(name)
    assert where is not None
    for each in failed:
        board.judge(name, where, failed=each)


def retired(world: World, twin: str) -> None:
    """Have nothing loaded of ``twin`` any more."""
    draining(world, twin)
    world.store.states.start_unloading(twin, reason="evicted")
    world.store.states.release(twin, reason="evicted", evicted=True)


# --- beginning ------------------------------------------------------------------------------------


async def test_a_switch_begins_with_a_decision_about_the_twin(world: World) -> None:
    model = outdated(world)
    script = scripted(world, decide=LOADS)
    assert await switching.begin(world.services, model) == ""
    assert script.asked == [("decide", {"model": "tiny@2", "trigger": "ingest"})]
    assert states(world) == {"tiny": "ready", "tiny@2": "analyzed"}


async def test_a_twin_that_is_not_loaded_is_dropped_and_the_reason_returned(world: World) -> None:
    model = outdated(world)
    scripted(world, decide=Report(stage="decide", outcome="queued", reason="no room"))
    assert await switching.begin(world.services, model) == "no room"
    assert states(world) == {"tiny": "ready"}
    assert world.store.model("tiny").version == 2


async def test_a_version_that_the_rules_reject_leaves_the_loaded_one_current(world: World) -> None:
    model = outdated(world)
    script = scripted(world, decide=Report(stage="decide", outcome="rejected", reason="too big"))
    assert await switching.begin(world.services, model) == ""
    await background(world)
    assert states(world) == {"tiny": "ready"}
    assert (world.store.model("tiny").version, world.store.model("tiny").outdated) == (1, False)
    assert script.stages() == [("decide", "tiny@2")], "what is loaded needs no analysis"
    ((name, detail),) = events(world, "model.rolled-back")
    decision = detail.pop("decision")
    assert (name, detail) == ("tiny", {"version": 1, "was": 2, "reason": "too big"})
    made = world.store.decisions.get(decision)
    assert (made.outcome, made.plan.author, made.plan.trigger, made.plan.subject) == (
        "done",
        "rules",
        "sweep",
        "tiny",
    )
    assert made.plan.reason == "version 1 replaces version 2: too big"
    assert made.at == made.finished_at
    assert world.services.switchboard._known == {"tiny": 1}


@pytest.mark.parametrize(("length", "fits"), [(126, True), (127, False)])
async def test_a_name_leaves_room_for_that_of_its_twin(
    world: World, length: int, fits: bool
) -> None:
    name = "n" * length
    model = outdated(world, name)
    script = scripted(world, decide=LOADS)
    why = await switching.begin(world.services, model)
    assert why == ("" if fits else "the name is too long for two versions at once")
    assert len(script.asked) == fits
    assert len(states(world)) == 1 + fits


async def test_a_switch_that_goes_on_is_begun_by_its_end(world: World) -> None:
    model = outdated(world)
    world.store.twins.stand_by("tiny")
    booked(world, "tiny@2")
    script = scripted(world)
    assert await switching.begin(world.services, model) == ""
    assert script.asked == [] and states(world) == {"tiny": "ready", "tiny@2": "loading"}
    assert events(world, "model.switched") == []


async def test_a_twin_that_is_ready_serves_at_once_if_it_is_the_current_version(
    world: World,
) -> None:
    both_ready(world)
    await switching.begin(world.services, world.store.model("tiny"))
    assert deployment_of(world).version == 2
    third = registered(world, version=3)
    script = scripted(world)
    assert await switching.begin(world.services, third) == ""
    assert deployment_of(world).version == 2 and script.asked == []


async def test_the_twin_of_another_model_is_none_of_its_own(world: World) -> None:
    await on_trial(world, "other")
    model = outdated(world)
    script = scripted(world, decide=LOADS)
    assert await switching.begin(world.services, model) == ""
    assert script.stages() == [("decide", "tiny@2")]


# --- taking over ----------------------------------------------------------------------------------


async def test_a_twin_takes_over_and_says_what_stays(world: World) -> None:
    twin = both_ready(world)
    await switching.complete(world.services, twin)
    record = world.store.model("tiny")
    assert (record.version, deployment_of(world).name) == (2, "tiny@2")
    assert record.reason == (
        "version 2 is loaded and serves now; version 1 stays loaded until it has answered its "
        "first requests"
    )
    assert events(world, "model.switched") == [("tiny", {"version": 2, "was": 1})]
    board = world.services.switchboard
    assert board.upstream("tiny").served_name == "tiny@2"  # type: ignore[union-attr]
    assert board.answers("tiny").version == 2


async def test_requests_in_flight_are_waited_for_under_the_name_of_the_version_before(
    world: World,
) -> None:
    twin = both_ready(world)
    async with world.services.switchboard.admit("tiny"):
        await switching.complete(world.services, twin)
        assert await world.services.switchboard.drained("tiny", timeout_s=0.0)
        assert not await world.services.switchboard.drained("tiny@1", timeout_s=0.0)


async def test_a_twin_takes_over_from_nothing_where_nothing_is_loaded_any_more(
    world: World,
) -> None:
    twin = both_ready(world)
    retired(world, "tiny")
    world.services.switchboard.close("tiny")
    await switching.complete(world.services, twin)
    assert states(world) == {"tiny": "ready"}
    assert world.store.model("tiny").reason == "version 2 is loaded and serves now"
    assert events(world, "model.switched") == [("tiny", {"version": 2, "was": None})]
    assert await world.request() == "tiny@2"


@pytest.mark.parametrize("why", ["removed", "newer", "draining", "no twin"])
async def test_a_twin_that_is_not_wanted_any_more_does_not_take_over(
    world: World, why: str
) -> None:
    twin = both_ready(world)
    if why == "removed":
        world.store.lineage.begin_removal("tiny", by="me", purge=False)
    elif why == "newer":
        registered(world, version=3)
    elif why == "draining":
        draining(world, "tiny")
    else:
        twin = world.store.model("tiny")
    await switching.complete(world.services, twin)
    assert deployment_of(world).version == 1
    assert events(world, "model.switched") == []


# --- failing --------------------------------------------------------------------------------------


async def test_a_load_that_fails_by_its_version_ends_the_switch(world: World) -> None:
    others = {FailureKind.KILLED, FailureKind.PORT, FailureKind.ENVIRONMENT}
    for kind in FailureKind:
        name = kind.value.replace("_", "-")
        outdated(world, name)
        twin = world.store.twins.stand_by(name)
        world.heard.clear()
        await switching.load_failed(world.services, twin, LoadFailed("bad magic", kind=kind))
        assert (twin.name in states(world)) is (kind in others)
        assert world.store.model(name).version == (2 if kind in others else 1)
        told = [detail["reason"] for _name, detail in events(world, "model.rolled-back")]
        assert told == ([] if kind in others else ["version 2 could not be loaded: bad magic"])


async def test_the_failed_load_of_a_version_before_the_current_one_is_its_own(
    world: World,
) -> None:
    outdated(world)
    twin = world.store.twins.stand_by("tiny")
    registered(world, version=3)
    await switching.load_failed(world.services, twin, LoadFailed("bad magic"))
    assert states(world) == {"tiny": "ready"}
    assert world.store.model("tiny").version == 3
    assert events(world, "model.rolled-back") == []


async def test_without_a_loaded_version_the_newest_proven_one_is_loaded_again(
    world: World,
) -> None:
    for version in (1, 2, 3, 4):
        registered(world, version=version)
    for version in (1, 2):
        world.store.lineage.prove("tiny", version)
    script = scripted(world)
    await switching.load_failed(world.services, world.store.model("tiny"), LoadFailed("no"))
    await background(world)
    assert world.store.model("tiny").version == 2
    assert script.asked == [("analyze", {"model": "tiny"})]
    proven = world.store.model("tiny")
    await switching.load_failed(world.services, proven, LoadFailed("no"))
    assert world.store.model("tiny").version == 2, "it has worked before"


async def test_the_current_version_is_none_to_return_to(world: World) -> None:
    registered(world)
    script = scripted(world)
    await switching.load_failed(world.services, world.store.model("tiny"), LoadFailed("no"))
    await background(world)
    assert (world.store.model("tiny").version, script.asked) == (1, [])
    assert events(world, "model.rolled-back") == []


@pytest.mark.parametrize("state", ["current", "draining", "ready"])
async def test_an_unusable_version_returns_to_the_one_that_is_loaded(
    world: World, state: str
) -> None:
    if state == "current":
        registered(world)
        ready(world)
    else:
        outdated(world)
    if state == "draining":
        draining(world)
    found = await switching.refused(world.services, "tiny", reason="a pickle")
    assert found is (state == "ready")
    expected = {"version": 1, "was": 2, "reason": "a pickle"}
    told = [
        {k: v for k, v in detail.items() if k != "decision"}
        for _name, detail in events(world, "model.rolled-back")
    ]
    assert told == ([expected] if found else [])


# --- concluding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at_start", [False, True])
async def test_a_switch_that_never_began_is_begun(world: World, at_start: bool) -> None:
    outdated(world)
    script = scripted(world)
    await conclude(world, at_start=at_start)
    assert script.stages() == [("analyze", "tiny")]
    assert not world.store.model("tiny").proven


async def test_what_is_removed_is_not_concluded(world: World) -> None:
    outdated(world)
    world.store.lineage.begin_removal("tiny", by="me", purge=False)
    script = scripted(world)
    await conclude(world, at_start=True)
    assert script.asked == []


def settled_twins(world: World) -> list[str]:
    """Have a twin of which nothing is loaded for each reason, and return their models."""
    names = ["fresh", "failed", "quarantined", "evicted", "evicted-replaced", "replaced"]
    for name in names:
        outdated(world, name)
        twin = world.store.twins.stand_by(name).name
        if name in ("failed", "quarantined"):
            booked(world, twin)
            retry_at = world.clock.time() + 10.0 if name == "failed" else None
            world.store.states.fail(
                twin, reason="", failures=1, retry_at=retry_at, setbacks=Setbacks()
            )
        if name.startswith("evicted"):
            ready(world, twin)
            retired(world, twin)
        if name.endswith("replaced"):
            registered(world, name, version=3)
    return names


async def test_a_twin_of_which_nothing_is_loaded_is_forgotten_in_its_time(world: World) -> None:
    settled_twins(world)
    script = scripted(world)
    passed, found = 0.0, {}
    for moment in (0.0, 9.9, 10.1, switching.ORPHAN_S - 1.0, switching.ORPHAN_S + 1.0):
        world.clock.advance(moment - passed)
        passed = moment
        script.asked.clear()
        await conclude(world)
        found[moment] = sorted(script.stages())  # each begins again, as nobody is at it
    assert found == {
        0.0: [("analyze", "evicted-replaced"), ("analyze", "quarantined")],
        9.9: [("analyze", "evicted-replaced"), ("analyze", "quarantined")],
        10.1: [("analyze", "failed")],
        switching.ORPHAN_S - 1.0: [("analyze", "failed")],
        switching.ORPHAN_S + 1.0: [
            ("analyze", "evicted"),
            ("analyze", "fresh"),
            ("analyze", "replaced"),
        ],
    }
    assert not [name for name in states(world) if "@" in name]


async def test_at_the_start_every_twin_of_which_nothing_is_loaded_is_forgotten(
    world: World,
) -> None:
    names = settled_twins(world)
    script = scripted(world)
    await conclude(world, at_start=True)
    assert sorted(script.stages()) == sorted(("analyze", name) for name in names)
    assert sorted(states(world)) == sorted(names)


async def test_a_twin_is_forgotten_for_good_where_its_model_is_current(world: World) -> None:
    await on_trial(world)
    retired(world, "tiny@1")
    script = scripted(world)
    await conclude(world)
    assert states(world) == {"tiny": "ready"}
    assert script.asked == []


async def test_a_trial_that_is_passed_proves_the_version_and_unloads_the_one_before(
    world: World,
) -> None:
    await on_trial(world)
    world.runtime.unloads.clear()
    answered(world, failed=[False] * 20)
    await conclude(world)
    assert states(world) == {"tiny": "ready"} and world.store.model("tiny").proven
    assert [name for name, _grace_s in world.runtime.unloads] == ["tiny"]
    made = world.store.decisions.newest(model="tiny@1")[0]
    assert (made.outcome, made.plan.reason) == ("done", "version 2 has replaced it")
    assert made.plan.unloads[0].cause == "replaced"


async def test_the_answers_of_the_version_before_say_nothing_about_the_next(world: World) -> None:
    registered(world)
    ready(world)
    answered(world, failed=[False] * 20)
    registered(world, version=2)
    world.store.twins.stand_by("tiny")
    ready(world, "tiny@2")
    world.store.twins.exchange("tiny", "tiny@2", reason="not routed yet")
    scripted(world)
    await conclude(world)
    assert not world.store.model("tiny").proven
    assert states(world) == {"tiny": "ready", "tiny@1": "ready"}


async def test_a_trial_that_is_failed_returns_with_the_count(world: World) -> None:
    await on_trial(world)
    answered(world, failed=[False, True, True, True])
    await conclude(world)
    record = world.store.model("tiny")
    assert (record.version, deployment_of(world).version) == (1, 1)
    failed = "3 of its first 4 requests failed"
    assert record.reason == f"version 1 serves again: version 2 failed its trial ({failed})"
    ((_name, detail),) = events(world, "model.rolled-back")
    assert (detail["version"], detail["was"]) == (1, 2)
    assert detail["reason"] == f"it failed its trial: {failed}"
    assert await world.request() == "tiny"


@pytest.mark.parametrize(
    ("end", "serves"),
    [("queued", 1), ("failed", 1), ("unloaded", None), ("draining", None), ("proven", None)],
)
async def test_a_version_that_ends_during_its_trial_gives_way_to_the_one_before(
    world: World, end: str, serves: int | None
) -> None:
    """Unless somebody unloaded it, or it has proven itself."""
    await on_trial(world)
    if end == "failed":
        world.store.states.fail("tiny", reason="no", failures=1, retry_at=None, setbacks=Setbacks())
    elif end == "unloaded":
        retired(world, "tiny")
    elif end == "draining":
        draining(world)
    else:
        if end == "proven":
            world.store.lineage.prove("tiny", 2)
        world.store.states.requeue("tiny", reason="gone")
    world.services.switchboard.close("tiny")
    await conclude(world)
    found = world.store.model("tiny").deployment
    if end == "draining":
        assert states(world) == {"tiny": "draining", "tiny@1": "ready"}, "it is on its way"
        return
    assert (found.version if found else None) == serves
    assert list(states(world)) == ["tiny"] if serves is None else serves == 1
    if end == "queued":
        told = events(world, "model.rolled-back")[0][1]["reason"]
        assert told == "it failed its trial: it does not run any more: gone"


async def test_a_third_version_begins_once_the_first_is_unloaded(world: World) -> None:
    await on_trial(world)
    registered(world, version=3)
    await conclude(world)
    await background(world)
    assert ("analyze", {"model": "tiny"}) in world.ran
    assert "tiny@1" not in states(world)


async def test_a_version_whose_last_requests_take_long_is_asked_again_after_a_pause(
    world: World,
) -> None:
    await on_trial(world)
    answered(world, failed=[False] * 20)
    script = scripted(world)  # nothing is unloaded
    for pause, asked in ((0.0, 1), (29.0, 1), (1.1, 2)):
        world.clock.advance(pause)
        await conclude(world)
        assert len(script.asked) == asked
    assert states(world) == {"tiny": "ready", "tiny@1": "ready"}


async def test_a_switch_that_fails_is_continued_after_a_pause(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await on_trial(world)
    answered(world, failed=[False] * 20)
    with world.locked():
        for pause, failures in ((0.0, 1), (29.0, 1), (1.1, 2)):
            world.clock.advance(pause)
            await conclude(world)
            told = [r for r in caplog.records if r.name == "modelium.stages.launcher"]
            assert len(told) == failures
    world.clock.advance(31.0)
    await conclude(world)
    assert world.store.model("tiny").proven


# --- alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "earlier", "version", "proven"),
    [
        ([True] * 3, True, 1, False),
        ([True] * 3, False, 2, True),
        ([False] * 20, True, 2, True),
        ([False] * 19, True, 2, False),
    ],
)
async def test_a_version_alone_is_judged_too(
    world: World, failed: list[bool], earlier: bool, version: int, proven: bool
) -> None:
    registered(world)
    world.store.lineage.prove("tiny", 1)
    registered(world, version=2)
    ready(world)
    if not earlier:  # it is kept no more
        world.store.lineage.retire("tiny", [1], by="me")
    assert not world.store.model("tiny").proven
    answered(world, failed=failed)
    script = scripted(world)
    await conclude(world)
    record = world.store.model("tiny")
    assert record.version == version
    found = {v.version: v.proven_at is not None for v in world.store.lineage.versions("tiny")}
    assert found[2] is proven
    assert script.stages() == ([("analyze", "tiny")] if version == 1 else [])


async def test_what_is_not_loaded_is_not_judged(world: World) -> None:
    registered(world)
    world.store.lineage.prove("tiny", 1)
    registered(world, version=2)
    script: Script = scripted(world)
    await switching._try(world.services, world.store.model("tiny"))
    world.clock.advance(1000.0)
    await conclude(world)
    assert not world.store.model("tiny").proven and script.asked == []
    assert world.store.model("tiny").state is ModelState.INGESTED
