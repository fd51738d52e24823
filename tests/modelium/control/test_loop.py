"""The control loop reconciles, plans once, hands its plan on, and survives failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy.exc import OperationalError

from agents.rules.planner import RulePlanner
from modelium.config import Config
from modelium.control.loop import MIN_PAUSE_S, PERSIST_S, Loop
from modelium.errors import Unavailable
from modelium.models import Departure, DepartureKind, Fleet, Plan, Traffic, Trigger
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.policy.backoff import FIRST_PAUSE_S
from modelium.policy.departures import was_wrong
from modelium.ports import Question
from modelium.stages.evict import evict
from modelium.stages.monitor import monitor
from modelium.stages.owners import GRACE_S
from modelium.stages.snapshot import snapshot
from modelium.stages.sweeps import Schedule, Sweeps
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.devices import CPU
from tests.fakes.llm import calls
from tests.modelium.conftest import Advised, World
from tests.modelium.stages.test_load import booked

pytestmark = pytest.mark.slow

CHOICE = {"reason": "its card says production", "runtime": "ray_serve", "priority": "high"}


class CountingBrain:
    """Decides by the rules and records each trigger."""

    def __init__(self) -> None:
        self.rules = RulePlanner()
        self.asked: list[Trigger] = []
        self.failure: Exception | None = None

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        return None

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        self.asked.append(question.trigger)
        if self.failure:
            raise self.failure
        return await self.rules.decide(question, fleet, policy, advice)


@pytest.fixture
async def brain(world: World) -> CountingBrain:
    """One loaded model that has been idle for longer than the policy allows."""
    await world.load()
    world.clock.advance(world.services.policy.auto_unload_after_s + 1)
    brain = CountingBrain()
    world.services = replace(world.services, brain=brain)
    return brain


def loop_of(world: World) -> Loop:
    return Loop(services=world.services, signals=world.signals)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    """Run the loop for one tick; the next is due when the clock is advanced."""
    world.clock.hurried = False
    task = asyncio.create_task(loop_of(world).run())
    await world.clock.asleep()
    yield
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def scheduled(world: World, schedule: Schedule) -> None:
    """Have Prefect's schedule decide on idle models."""
    sweeps = Sweeps(scheduled=True, now=world.clock.monotonic())
    sweeps.follow(schedule)
    world.services = replace(world.services, sweeps=sweeps)


def interval(world: World) -> float:
    return world.services.config.orchestration.metrics.collection_interval_seconds


async def test_a_sweep_is_planned_once(world: World, brain: CountingBrain) -> None:
    await loop_of(world).tick()
    assert await world.settled("tiny", "unloaded") == "unloaded"
    assert brain.asked == [Trigger.SWEEP]
    (made,) = [
        d for d in world.store.decisions.newest(model="tiny") if d.plan.trigger is Trigger.SWEEP
    ]
    assert made.outcome == "done"


async def test_a_stale_plan_is_made_again(world: World, brain: CountingBrain) -> None:
    plan = Plan(author="rules", trigger=Trigger.SWEEP, revision=world.store.revision() - 1)
    await world.services.launcher.decide(trigger=Trigger.SWEEP, plan=plan)
    assert await world.settled("tiny", "unloaded") == "unloaded"
    assert brain.asked == [Trigger.SWEEP]


async def test_idle_models_are_left_to_the_schedule_while_prefect_answers(
    world: World, brain: CountingBrain
) -> None:
    scheduled(world, Schedule(interval_s=1e6))
    await loop_of(world).tick()
    assert brain.asked == [Trigger.UPKEEP]
    assert world.store.model("tiny").state == "ready"
    report = await evict(world.services)
    assert (report.stage, report.outcome) == ("evict", "planned")
    assert await world.settled("tiny", "unloaded") == "unloaded"
    assert brain.asked == [Trigger.UPKEEP, Trigger.SWEEP]


async def test_a_paused_schedule_stops_idle_evictions_until_it_is_resumed(
    world: World, brain: CountingBrain
) -> None:
    scheduled(world, Schedule(paused_since=1000.0))
    loop = loop_of(world)
    await loop.tick()
    world.services.sweeps.follow(None)  # Prefect is away
    world.clock.advance(1e5)
    await loop.tick()
    assert world.store.model("tiny").state == "ready"
    assert world.store.rules.idle_pause() == 1000.0
    assert (await world.event("idle.paused")).detail == {"since": 1000.0}
    world.services.sweeps.follow(Schedule(interval_s=60.0))
    world.clock.advance(300.0)
    await loop.tick()
    assert await world.settled("tiny", "unloaded") == "unloaded"
    assert world.store.rules.idle_pause() is None
    await world.event("idle.resumed")


async def test_a_pause_does_not_stop_evictions_for_memory_pressure(
    world: World, brain: CountingBrain
) -> None:
    scheduled(world, Schedule(paused_since=1000.0))
    await loop_of(world).tick()
    assert world.store.model("tiny").state == "ready"
    world.devices.devices = (CPU.model_copy(update={"free_bytes": 0}),)
    world.store.history.record_memory({("tiny", CPU.id): 5}, {})
    await loop_of(world).tick()
    assert await world.settled("tiny", "unloaded") == "unloaded"
    assert "max_gpu_memory_utilization" in world.store.model("tiny").reason


async def test_a_review_unloads_no_idle_model_while_it_is_paused(
    world: World, brain: CountingBrain
) -> None:
    scheduled(world, Schedule(paused_since=1000.0))
    await world.launcher.decide(trigger=Trigger.REVIEW)
    assert world.store.model("tiny").state == "ready"
    world.services.sweeps.follow(Schedule(interval_s=60.0))
    await world.launcher.decide(trigger=Trigger.REVIEW)
    assert await world.settled("tiny", "unloaded") == "unloaded"


async def test_a_disabled_orchestration_plans_nothing(world: World, brain: CountingBrain) -> None:
    world.rule(enabled=False)
    await loop_of(world).tick()
    report = await evict(world.services)
    assert (report.outcome, report.reason) == ("nothing", "orchestration is disabled")
    assert brain.asked == []
    assert world.store.model("tiny").state == "ready"


async def test_the_loop_ticks_again_after_each_interval(world: World, brain: CountingBrain) -> None:
    async with running(world):
        assert brain.asked == [Trigger.SWEEP]
        world.clock.advance(MIN_PAUSE_S)
        await world.clock.asleep()
        world.clock.advance(interval(world) - MIN_PAUSE_S)
        await world.clock.asleep()
        assert brain.asked == [Trigger.SWEEP, Trigger.SWEEP]
        parts = (MIN_PAUSE_S, interval(world) - MIN_PAUSE_S)
        assert [s for s in world.clock.slept if s in parts][:3] == [*parts, MIN_PAUSE_S]


async def test_a_failed_tick_does_not_end_the_loop(
    world: World, brain: CountingBrain, caplog: pytest.LogCaptureFixture
) -> None:
    brain.failure = ValueError("a bug")
    async with running(world):
        assert "a bug" in caplog.text
        brain.failure = Unavailable("away")
        world.signals.tick_wanted.set()
        world.clock.advance(MIN_PAUSE_S)
        await world.idle()
        await world.clock.asleep()
        assert "away" in caplog.text
        brain.failure = None
        world.signals.tick_wanted.set()
        world.clock.advance(MIN_PAUSE_S)
        await world.settled("tiny", "unloaded")


async def test_a_dead_engine_is_noticed_as_soon_as_a_request_fails(world: World) -> None:
    """Right after it became ready a runtime's list is not believed, unless nothing answers."""
    await world.load()
    world.runtime.held.clear()
    assert (await monitor(world.services)).outcome == "steady"
    async with running(world):
        world.services.switchboard.suspect("tiny")
        world.clock.advance(MIN_PAUSE_S)  # much less than the interval
        await world.settled("tiny", "failed")
        for _ in range(2):  # the loop pauses in two parts
            await world.clock.asleep()
            world.clock.advance(FIRST_PAUSE_S)
        await world.eventually(lambda: world.runtime.loads == 2)
        await world.settled("tiny", "ready")
    assert not world.services.switchboard.is_suspect("tiny")


async def test_requests_reach_the_log_of_the_store_when_the_loop_writes_them(world: World) -> None:
    line = LoggedRequest(1.0, "tiny", 3, 4, 0.5)
    world.services.requests.add(line)
    loop = loop_of(world)
    await loop.persist()
    await loop.persist()
    assert world.store.history.requests() == [line]


async def test_a_line_that_the_store_did_not_take_is_written_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = LoggedRequest(1.0, "tiny", 3, 4, 0.5)
    world.services.requests.add(line)
    loop = loop_of(world)
    with monkeypatch.context() as patched:
        patched.setattr(world.services.store.history, "log", locked)
        with pytest.raises(OperationalError):
            await loop.persist()
    await loop.persist()
    assert world.store.history.requests() == [line]


async def locked(lines: object) -> None:
    raise OperationalError("INSERT", {}, Exception("database is locked"))


async def test_lost_lines_are_counted(world: World) -> None:
    world.services.requests.dropped = 5
    loop = loop_of(world)
    await loop.persist()
    await loop.persist()
    assert "modelium_request_log_lost_lines_total 5.0" in world.exposed()


async def test_traffic_is_written_once_in_a_while(world: World) -> None:
    await world.load()
    await world.request()
    assert world.store.history.traffic() == {}
    async with running(world):
        assert world.store.history.traffic() == {}
        world.clock.advance(PERSIST_S)
        world.signals.tick_wanted.set()
        await world.eventually(lambda: "tiny" in world.store.history.traffic())
    kept: Traffic = world.store.history.traffic()["tiny"]
    assert kept.completed == 1


async def test_the_review_comes_by_itself(advised: Advised) -> None:
    world = advised.world
    fake = await advised.played_by(lambda body: calls("decide", {"prewarm": ["tiny"]}))
    await advised.drop("tiny")
    await world.settled("tiny", "ready")
    await evict(world.services, models=["tiny"])
    before = len(fake.seen)
    world.rule(reload_cooldown_s=0.0)
    loop = loop_of(world)
    await loop.tick()
    assert len(fake.seen) == before, "it is not due yet"
    world.clock.advance(world.services.config.brain.review_interval_seconds)
    await loop.tick()
    await world.settled("tiny", "ready")
    assert len(fake.seen) > before
    made = world.store.decisions.newest(model="tiny")[0]
    assert (made.plan.author, made.plan.trigger) == ("llm", Trigger.REVIEW)


async def handed(world: World) -> Plan:
    """Return the loop's plan to unload the idle model, made a moment ago."""
    fleet = await snapshot(world.services)
    question = Question(trigger=Trigger.SWEEP, now=world.clock.time())
    plan = await RulePlanner().decide(question, fleet, world.services.policy)
    assert [action.action for action in plan.actions] == ["unload"]
    return plan.model_copy(update={"revision": fleet.revision, "at": fleet.at})


async def test_a_model_that_was_used_since_the_plan_was_made_stays(
    world: World, brain: CountingBrain
) -> None:
    plan = await handed(world)
    world.clock.advance(1.0)
    assert await world.request() == "tiny"
    await world.launcher.decide(trigger=Trigger.SWEEP, plan=plan)
    assert world.store.model("tiny").state.value == "ready"
    assert brain.asked == [Trigger.SWEEP], "planned again on the traffic of now"


async def test_a_request_in_flight_since_the_plan_was_made_refuses_no_sweep(
    world: World, brain: CountingBrain
) -> None:
    plan = await handed(world)
    async with world.services.switchboard.admit("tiny"):
        await world.launcher.decide(trigger=Trigger.SWEEP, plan=plan)
    assert world.store.model("tiny").state.value == "ready"
    assert "plan.refused" not in {event.kind for event in world.heard}


async def test_a_plan_that_the_policy_forbids_by_now_is_made_again(
    world: World, brain: CountingBrain
) -> None:
    plan = await handed(world)
    world.rule(always_loaded=frozenset({"tiny"}))
    await world.launcher.decide(trigger=Trigger.SWEEP, plan=plan)
    assert world.store.model("tiny").state.value == "ready"
    assert brain.asked == [Trigger.SWEEP]
    assert "plan.refused" not in {event.kind for event in world.heard}


async def test_what_nobody_is_at_is_settled_and_loaded_again(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    await booked(world, weight_bytes=5)
    assert world.store.model("tiny").state == "loading"
    loop = loop_of(world)
    await loop.tick()
    world.clock.advance(GRACE_S)
    await loop.tick()
    await world.attempts()
    assert world.store.model("tiny").state == "queued"
    world.clock.advance(world.services.policy.reload_cooldown_s)
    await loop.tick()
    await world.settled("tiny", "ready")


async def test_an_orphan_is_settled_though_the_fleet_cannot_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    await booked(world, weight_bytes=5)

    def broken() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(world.devices, "snapshot", broken)
    loop = loop_of(world)
    for _ in range(2):
        with pytest.raises(OSError, match="Too many"):
            await loop.tick()
        world.clock.advance(GRACE_S)
    await world.attempts()
    assert world.store.model("tiny").state == "queued"


def depart(world: World, one: Departure) -> None:
    plan = Plan(
        author="llm", trigger=Trigger.REVIEW, departures=(one,), revision=world.store.revision()
    )
    world.store.accept(plan, snapshot_digest="", trace={})


async def test_requests_are_noted_by_which_departures_are_judged(world: World) -> None:
    await world.load()
    world.rule(departures={DepartureKind.EVICT: 300.0})
    loop = loop_of(world)
    at = world.clock.time()
    one = Departure(
        kind=DepartureKind.EVICT, model="x", price_s=0.0, until=at + 60, right_if=("tiny",)
    )
    await loop.tick()
    depart(world, one)
    world.clock.advance(30.0)
    world.services.switchboard.traffic.on_arrival("tiny")
    await loop.tick()
    (seen,) = world.store.departures.since(0)
    assert seen.needed_at is not None and at + 30 < seen.needed_at < at + 31
    assert was_wrong(seen) is None
    world.clock.advance(50.0)
    await loop.tick()
    (over,) = world.store.departures.since(0)
    assert (over.seen_until, was_wrong(over)) == (one.until, False)


async def test_a_departure_is_void_whose_time_a_restart_has_cut(world: World) -> None:
    world.rule(departures={DepartureKind.EVICT: 300.0})
    one = Departure(kind=DepartureKind.EVICT, model="x", price_s=0.0, until=world.clock.time() + 60)
    depart(world, one)
    for seconds in (30.0, 60.0):
        world.clock.advance(seconds)
        await loop_of(world).tick()  # a loop of its own, as after a restart
    (found,) = world.store.departures.since(0)
    assert found.seen_until == found.at and was_wrong(found) is None


@pytest.mark.parametrize(
    ("interval_s", "gap_s", "void"),
    [(10.0, 61.0, True), (10.0, 59.0, False), (30.0, 91.0, True), (30.0, 89.0, False)],
)
async def test_a_departure_is_void_in_whose_time_the_loop_stood_still(
    world: World, interval_s: float, gap_s: float, void: bool
) -> None:
    fields = world.services.config.model_dump(exclude_unset=True)
    fields["orchestration"]["metrics"] = {"collection_interval_seconds": interval_s}
    world.services.configure(Config.model_validate(fields))
    world.rule(departures={DepartureKind.EVICT: 300.0})
    loop = loop_of(world)
    await loop.tick()
    until = world.clock.time() + 50.0
    depart(world, Departure(kind=DepartureKind.EVICT, model="x", price_s=0.0, until=until))
    world.clock.advance(gap_s)
    await loop.tick()
    (found,) = world.store.departures.since(0)
    assert found.seen_until == (found.at if void else found.until)
    assert was_wrong(found) is (None if void else True)


async def test_time_in_which_nothing_was_watched_is_not_made_up_for(world: World) -> None:
    world.rule(departures={DepartureKind.EVICT: 300.0})
    loop = loop_of(world)
    await loop.tick()
    depart(
        world,
        Departure(kind=DepartureKind.EVICT, model="x", price_s=0.0, until=world.clock.time() + 60),
    )
    await loop.tick()
    (seen,) = world.store.departures.since(0)
    assert seen.seen_until > seen.at
    deciding = world.services.policy
    world.services.policy = deciding.model_copy(update={"departures": {}})
    world.clock.advance(10.0)
    await loop.tick()
    world.services.policy = deciding
    world.clock.advance(60.0)
    await loop.tick()
    assert world.store.departures.since(0) == (seen,)
