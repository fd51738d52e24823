"""What the monitor does about each model that it looks at, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import Deployment, LoadSettings, Model, RuntimeName, RuntimeStatus, Setbacks
from modelium.policy import RuntimeRules
from modelium.ports import EngineStats, Running
from modelium.stages import monitor as monitoring
from modelium.stages.failing import FAILING, failure
from modelium.stages.monitor import SETTLE_S, monitor, reconcile
from modelium.stages.runtime_monitor import Observation
from modelium.stages.snapshot import inventory
from modelium.traffic import TrafficBook
from tests.fakes import fleets
from tests.fakes.clock import FakeClock
from tests.fakes.runtime import upstream
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
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

RAY, TRITON, VLLM = RuntimeName.RAY_SERVE, RuntimeName.TRITON, RuntimeName.VLLM


def loaded(world: World, name: str = "tiny", **given: Any) -> Model:
    registered(world, name)
    return ready(world, name, **given)


def switched(world: World) -> None:
    """Version 1 serves, and version 2 is loaded beside it."""
    loaded(world)
    registered(world, version=2)
    world.store.twins.stand_by("tiny")
    ready(world, "tiny@2")


# --- the report -----------------------------------------------------------------------------------


async def test_the_report_says_what_there_is_and_what_was_changed(world: World) -> None:
    loaded(world, "a")
    loaded(world, "b")
    registered(world, "c")
    (cpu,) = world.devices.devices
    world.devices.devices = (
        cpu.model_copy(update={"free_bytes": cpu.total_bytes * 3 // 4}),
        cpu.model_copy(update={"uuid": "odd", "total_bytes": 0, "free_bytes": 0}),
    )
    world.runtime.states |= {"a": "unhealthy", "b": "unhealthy"}
    world.runtime.shown["b"] = {"detail": "out of file descriptors"}
    world.clock.advance(world.services.policy.healthy_after_s)
    report = await monitor(world.services)
    assert (report.stage, report.outcome) == ("monitor", "changed")
    assert report.reason == "a lost (unhealthy); b lost (out of file descriptors)"
    assert report.details == {
        "models": {"a": "queued", "b": "queued", "c": "ingested"},
        "devices": {cpu.label: "25% used"},
        "runtimes": {"ray_serve": "up"},
    }
    again = await monitor(world.services)
    assert (again.outcome, again.reason) == ("steady", "")


async def test_a_runtime_that_is_down_is_shown_with_its_detail(world: World) -> None:
    world.runtime.discover_failure = OSError("refused")
    report = await monitor(world.services)
    assert report.details["runtimes"] == {"ray_serve": "it cannot be looked at: OSError: refused"}


async def test_a_steady_tick_writes_nothing(world: World) -> None:
    loaded(world)
    world.clock.advance(10_000.0)
    await monitor(world.services)
    before = world.store.revision(), len(world.heard)
    fleet, changed = await reconcile(world.services)
    assert (changed, fleet.revision) == ([], before[0])
    assert (world.store.revision(), len(world.heard)) == before


async def test_the_fleet_afterwards_is_as_it_was_left(world: World) -> None:
    loaded(world)
    await world.request()
    world.runtime.held.clear()
    world.clock.advance(SETTLE_S + 1.0)
    fleet, changed = await reconcile(world.services)
    assert changed == ["tiny lost (the runtime no longer has it)"]
    (tiny,) = fleet.models
    assert (tiny.state, tiny.traffic.completed) == (ModelState.FAILED, 1)
    assert fleet.bookings == ()


# --- what engines count ---------------------------------------------------------------------------


def sighted(name: str = "m", **stats: Any) -> dict[RuntimeName, Observation]:
    status = RuntimeStatus(name=VLLM, enabled=True, healthy=True)
    return {VLLM: Observation(status=status, stats={name: EngineStats(**stats)})}


def direct(book: TrafficBook, name: str = "m") -> int:
    found = book.snapshot().get(name)
    return found.in_flight if found else 0


def test_requests_that_the_engine_counts_are_the_models_own() -> None:
    book = TrafficBook(clock=FakeClock())
    serving = fleets.loaded("m", "n/g0")
    monitoring._count(book, fleets.fleet(serving), sighted())
    monitoring._count(book, fleets.fleet(serving), sighted(running=2))
    assert direct(book) == 2
    monitoring._count(book, fleets.fleet(serving), {})
    assert direct(book) == 2, "nothing was heard"
    monitoring._count(book, fleets.fleet(serving), sighted("another", running=5))
    assert direct(book) == 2
    gone = serving.model_copy(update={"deployment": None})
    monitoring._count(book, fleets.fleet(gone), sighted(running=5))
    assert direct(book) == 0


def test_what_is_loading_or_a_twin_is_not_counted() -> None:
    book = TrafficBook(clock=FakeClock())
    serving = fleets.loaded("m", "n/g0")
    assert serving.deployment is not None
    loading = serving.deployment.model_copy(update={"ready_at": None})
    for one in (
        serving.model_copy(update={"deployment": loading}),
        serving.model_copy(update={"twin_of": "base"}),
    ):
        monitoring._count(book, fleets.fleet(one), sighted())
        monitoring._count(book, fleets.fleet(one), sighted(running=2))
        assert direct(book) == 0
    monitoring._count(book, fleets.fleet(serving), sighted())
    monitoring._count(book, fleets.fleet(serving), sighted(running=2))
    twin = serving.model_copy(update={"deployment": None, "twin_of": "base"})
    monitoring._count(book, fleets.fleet(twin), {})
    assert direct(book) == 2, "a twin says nothing about requests of that name"


def test_what_is_counted_belongs_to_one_load() -> None:
    book = TrafficBook(clock=FakeClock())
    fleet = fleets.fleet(
        fleets.loaded("other", "n/g1", deployment=None), fleets.loaded("m", "n/g0")
    )
    monitoring._count(book, fleet, sighted(completed=3))
    monitoring._count(book, fleet, sighted(completed=7))
    assert book.snapshot()["m"].direct == 4


# --- losses ---------------------------------------------------------------------------------------


async def loss(world: World, observation: Observation | None, running: Running | None) -> str:
    fleet = await inventory(world.services)
    model = fleet.models_by_name["tiny"]
    return monitoring._loss(world.services, fleet, model, RAY, observation, running)


def seen(*running: Running, answers: bool = True) -> Observation:
    status = RuntimeStatus(name=RAY, enabled=True, healthy=answers)
    return Observation(status=status, running=running if answers else None)


async def test_why_a_model_is_lost(world: World) -> None:
    loaded(world)
    well = Running(model="tiny", state="ready")
    sick = replace(well, state="unhealthy")
    assert await loss(world, seen(well), well) == ""
    assert await loss(world, seen(sick), sick) == "unhealthy"
    hot = replace(sick, detail="too hot")
    assert await loss(world, seen(hot), hot) == "too hot"
    told = replace(well, detail="a note")
    assert await loss(world, seen(told), told) == ""
    assert await loss(world, seen(), None) == "", "a list may lag behind a load"
    world.clock.advance(SETTLE_S + 1.0)
    assert await loss(world, seen(), None) == "the runtime no longer has it"
    assert await loss(world, None, None) == ""
    assert await loss(world, seen(answers=False), None) == ""
    assert world.services.switchboard.upstream("tiny") is not None
    world.services = replace(world.services, runtimes={})
    off = "ray_serve is switched off in the configuration"
    assert await loss(world, None, None) == off
    assert await loss(world, seen(well), well) == off


async def test_only_an_unreachable_model_is_closed_while_its_runtime_is_silent(
    world: World,
) -> None:
    loaded(world)
    for observation in (None, seen(answers=False)):
        world.services.switchboard.open("tiny", upstream("tiny"))
        world.services.switchboard.suspect("tiny")
        assert await loss(world, observation, None) == ""
        assert world.services.switchboard.upstream("tiny") is None


@pytest.mark.parametrize(("age_s", "gone"), [(SETTLE_S, False), (SETTLE_S + 0.1, True)])
async def test_a_list_may_lag_behind_a_load_for_so_long(
    world: World, age_s: float, gone: bool
) -> None:
    since = fleets.NOW - age_s
    model = fleets.loaded("m", "n/g0", state_since=since)
    assert monitoring._gone(world.services, fleets.fleet(model), model) is gone


def in_runtime(name: str, runtime: RuntimeName, at: float | None, since: float = 0.0) -> Model:
    deployment = Deployment(
        model=name,
        version=1,
        runtime=runtime,
        devices=("n/g0",),
        settings=LoadSettings(),
        started_at=0.0,
        ready_at=at,
    )
    state = ModelState.READY
    return fleets.model(name, state=state, state_since=since, deployment=deployment)


def test_of_those_lost_with_a_shared_process_all_but_the_newest_are_innocent() -> None:
    lost = [
        in_runtime("second", TRITON, 20.0),
        in_runtime("newest", TRITON, 30.0),
        in_runtime("first", TRITON, 10.0),
        in_runtime("own", VLLM, 5.0),
        in_runtime("own-too", VLLM, 6.0),
    ]
    assert monitoring._innocent(lost) == {"first", "second"}
    assert monitoring._innocent(lost[:1]) == frozenset()
    stored_before = in_runtime("old", TRITON, None, since=40.0)
    assert monitoring._innocent([*lost, stored_before]) == {"first", "second", "newest"}
    assert monitoring._innocent([fleets.model("none"), *lost[:2]]) == {"second"}


@pytest.mark.parametrize(
    ("enabled", "rules", "acting"),
    [
        (True, RuntimeRules(), True),
        (False, RuntimeRules(), False),
        (True, RuntimeRules(enabled=False), False),
        (True, None, False),
    ],
)
async def test_orchestration_acts_where_it_and_the_runtime_are_enabled(
    world: World, enabled: bool, rules: RuntimeRules | None, acting: bool
) -> None:
    world.rule(enabled=enabled, runtimes={} if rules is None else {RAY: rules})
    assert monitoring._acting(world.services, RAY) is acting


async def test_only_a_ready_model_is_lost(world: World) -> None:
    for name in ("loading", "draining", "unloading"):
        registered(world, name)
        booked(world, name) if name == "loading" else ready(world, name)
    draining(world, "draining", "unloading")
    world.store.states.start_unloading("unloading", reason="evicted")
    world.runtime.held.clear()
    world.clock.advance(SETTLE_S + 1.0)
    before = states(world)
    assert (await monitor(world.services)).outcome == "steady"
    assert states(world) == before == {name: name for name in before}


async def test_a_loss_soon_after_the_load_is_a_failure_of_the_version(world: World) -> None:
    loaded(world)
    world.runtime.held.clear()
    world.runtime.unloads.clear()
    world.clock.advance(SETTLE_S + 1.0)
    await monitor(world.services)
    record = world.store.model("tiny")
    assert (record.state, record.failures, record.deployment) == (ModelState.FAILED, 1, None)
    why = "the runtime no longer has it"
    assert record.reason == f"lost 31 s after it was ready: {why}"
    assert world.runtime.unloads == [("tiny", 0.0)]
    assert world.services.switchboard.upstream("tiny") is None
    assert events(world, "model.lost") == [("tiny", {"reason": why})]
    assert 'modelium_model_restarts_total{model="tiny"} 1.0' in world.exposed()


async def test_a_lost_twin_takes_no_requests_from_its_model(world: World) -> None:
    switched(world)
    world.runtime.states["tiny@2"] = "unhealthy"
    world.clock.advance(world.services.policy.healthy_after_s)
    report = await monitor(world.services)
    assert report.reason == "tiny@2 lost (unhealthy)"
    assert states(world) == {"tiny": "ready", "tiny@2": "queued"}
    assert world.services.switchboard.upstream("tiny") == upstream("tiny")
    assert events(world, "model.lost") == [("tiny", {"reason": "unhealthy"})]
    assert world.store.model("tiny@2").reason == "to be loaded again: unhealthy"


async def test_a_model_that_is_deployed_anew_meanwhile_is_not_lost(world: World) -> None:
    old = loaded(world)
    world.store.states.mark_moved(deployment_of(world).model_copy(update={"load_s": 9.0}))
    world.runtime.unloads.clear()
    assert old.deployment is not None
    told = await monitoring._lost(world.services, old, old.deployment, "gone")
    assert told == "tiny has another deployment by now"
    assert states(world) == {"tiny": "ready"} and world.runtime.unloads == []
    assert world.services.switchboard.upstream("tiny") is not None


async def test_a_loss_in_a_runtime_that_is_switched_off_asks_nobody(world: World) -> None:
    loaded(world)
    world.services = replace(world.services, runtimes={})
    world.clock.advance(world.services.policy.healthy_after_s)
    assert (await monitor(world.services)).outcome == "changed"
    assert states(world) == {"tiny": "queued"} and world.runtime.unloads == []


# --- health ---------------------------------------------------------------------------------------


async def test_failures_are_forgotten_after_so_long(world: World) -> None:
    registered(world)
    booked(world)
    world.store.states.fail("tiny", reason="no", failures=2, retry_at=1.0, setbacks=Setbacks())
    ready(world)
    world.clock.advance(world.services.policy.healthy_after_s - 1.0)
    assert (await monitor(world.services)).outcome == "steady"
    assert world.store.model("tiny").failures == 2
    world.clock.advance(2.0)
    assert (await monitor(world.services)).outcome == "steady", "it is no correction"
    assert world.store.model("tiny").failures == 0


# --- following ------------------------------------------------------------------------------------


async def test_a_model_is_followed_with_its_new_handle(world: World) -> None:
    loaded(world, handle={"pid": 1})
    world.runtime.held["tiny"] = upstream("tiny", port=10)
    world.runtime.shown["tiny"] = {"handle": {"pid": 2}}
    await monitor(world.services)
    found = deployment_of(world)
    assert (found.upstream, found.handle) == (upstream("tiny", port=10), {"pid": 2})
    assert found.load_s == 3.0


@pytest.mark.parametrize("why", ["removed", "twin"])
async def test_what_is_removed_or_a_twin_is_not_followed(world: World, why: str) -> None:
    switched(world)
    name = "tiny" if why == "removed" else "tiny@2"
    if why == "removed":
        world.store.lineage.begin_removal("tiny", by="me", purge=False)
        world.services.switchboard.close("tiny")
    world.runtime.held[name] = upstream(name, port=10)
    await monitor(world.services)
    assert deployment_of(world, name).upstream == upstream(name)
    assert (world.services.switchboard.upstream("tiny") is None) is (why == "removed")


async def test_a_model_without_an_address_in_the_list_stays_where_it_is(world: World) -> None:
    record = loaded(world)
    running = Running(model="tiny", state="ready", upstream=None)
    assert record.deployment is not None
    told = await monitoring._follow(world.services, record, record.deployment, running)
    assert told == ""
    assert deployment_of(world) == record.deployment
    assert world.services.switchboard.upstream("tiny") == upstream("tiny")


async def test_a_move_that_another_version_overtakes_is_not_stored(world: World) -> None:
    record = loaded(world)
    assert record.deployment is not None
    newer = record.deployment.model_copy(update={"load_s": 9.0})
    world.store.states.mark_moved(newer)
    there = Running(model="tiny", state="ready", upstream=upstream("tiny", port=10))
    await monitoring._moved(world.services, record, record.deployment, there)
    assert deployment_of(world) == newer
    assert world.services.switchboard.upstream("tiny") == upstream("tiny")


@pytest.mark.parametrize("why", [None, "draining", "moved", "gone", "owned"])
async def test_a_closed_model_is_opened_only_as_it_was_seen(world: World, why: str | None) -> None:
    record = loaded(world, opened=False)
    assert record.deployment is not None
    if why == "draining":
        draining(world)
    elif why == "moved":
        world.store.states.mark_moved(record.deployment.model_copy(update={"load_s": 9.0}))
    elif why == "gone":
        record = record.model_copy(update={"name": "never-there"})
    with world.services.owners.of("tiny" if why == "owned" else "another"):
        await monitoring._reopen(world.services, record, record.deployment)
    assert (world.services.switchboard.upstream("tiny") is not None) is (why is None)


# --- failing every request ------------------------------------------------------------------------


async def test_a_failing_model_is_checked_with_a_request_of_our_own(world: World) -> None:
    record = loaded(world)
    deployment, board = deployment_of(world), world.services.switchboard
    world.runtime.ills["tiny"] = "it answers 500"
    where = board.upstream("tiny")
    assert where is not None
    for _ in range(FAILING - 1):
        board.judge("tiny", where, failed=True)
    assert await failure(world.services, record, deployment) == ""
    board.judge("tiny", where, failed=True)
    assert await failure(world.services, record, deployment) == (
        "its last 20 answers failed, and so did a request of Modelium's own: it answers 500"
    )
    assert board.failing("tiny") == 20
    assert await monitoring._follow(
        world.services, record, deployment, Running(model="tiny", state="ready")
    ) == (
        "tiny lost (its last 20 answers failed, and so did a request of Modelium's own: it answers "
        "500)"
    )


async def test_a_silent_check_is_no_failure_and_forgives_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = loaded(world)
    board = world.services.switchboard
    where = board.upstream("tiny")
    assert where is not None
    for _ in range(FAILING):
        board.judge("tiny", where, failed=True)

    async def silent(*_args: Any, **_given: Any) -> str:
        raise TimeoutError

    monkeypatch.setattr(world.runtime, "check", silent)
    assert await failure(world.services, record, deployment_of(world)) == ""
    assert board.failing("tiny") == FAILING
    monkeypatch.undo()
    assert await failure(world.services, record, deployment_of(world)) == ""
    assert board.failing("tiny") == 0


# --- what is not wanted ---------------------------------------------------------------------------


async def test_what_is_not_wanted_is_cleared_within_the_grace(world: World) -> None:
    registered(world)
    gateway = world.services.config.gateway.model_copy(update={"drain_grace_seconds": 7.0})
    config = world.services.config.model_copy(update={"gateway": gateway})
    world.services = replace(world.services, config=config)
    world.runtime.held |= {"tiny": upstream("tiny"), "tiny@2": upstream("tiny@2")}
    world.runtime.held["stranger"] = upstream("stranger")
    report = await monitor(world.services)
    assert report.reason == "tiny cleared from ray_serve; tiny@2 cleared from ray_serve"
    assert world.runtime.unloads == [("tiny", 7.0), ("tiny@2", 7.0)]
    assert list(world.runtime.held) == ["stranger"]


async def test_a_correction_that_fails_is_reported_as_none(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    scripted(world)
    for name, error in (("a", TimeoutError()), ("b", KeyError("app"))):
        registered(world, name)
        world.runtime.held[name] = upstream(name)
        world.runtime.unload_failures[name] = error
    assert await monitor(world.services) == await monitor(world.services)
    told = [r for r in caplog.records if r.name == "modelium.stages.monitor"]
    told_of_a = "ray_serve did not unload a within 15 s; it is asked again"
    assert [(r.getMessage(), bool(r.exc_info)) for r in told[:2]] == [
        (f"a could not be corrected: ModeliumError('{told_of_a}')", False),
        ("b could not be corrected", True),
    ]


async def test_what_is_placed_meanwhile_is_not_cleared(world: World) -> None:
    registered(world, "another")
    registered(world)
    booked(world)
    seen_before = Running(model="tiny", state="ready")
    told = await monitoring._unwanted(world.services, RAY, seen_before)
    assert (told, world.runtime.unloads) == ("tiny is being loaded", [])
    world.store.states.cancel_load("tiny", reason="")
    ready(world, "another")
    told = await monitoring._unwanted(world.services, RAY, seen_before)
    assert (told, world.runtime.unloads) == ("tiny cleared from ray_serve", [("tiny", 0.0)])


async def test_memory_that_moves_is_noted_though_it_is_no_new_high(world: World) -> None:
    loaded(world)
    for held, measured in ((50, 50), (30, 50), (30, 50)):
        world.runtime.counts["tiny"] = EngineStats(resident_bytes=held)
        await monitor(world.services)
        assert [b.resident_bytes for b in world.store.view()[2]] == [held]
        assert [m.per_device_bytes for m in world.store.model("tiny").measured] == [measured]
