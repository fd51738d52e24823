"""When a plan is made anew, what is recorded of one, and what it is asked with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelium.errors import StalePlan
from modelium.lifecycle import ModelState
from modelium.models import (
    Decision,
    Fleet,
    Keep,
    Load,
    Plan,
    Queue,
    Reject,
    Report,
    RuntimeName,
    Traffic,
    Trigger,
    Unload,
)
from modelium.models.advice import Advice
from modelium.policy import PlanRejected, Policy
from modelium.ports import Question
from modelium.stages import planning
from modelium.stages.decide import decide, report
from modelium.stages.planning import asked, effective, place, sweep
from modelium.stages.snapshot import digest, snapshot
from modelium.stages.sweeps import Sweeps
from tests.fakes import fleets
from tests.fakes.devices import CPU
from tests.modelium.conftest import World
from tests.modelium.stages.rows import background, events, ready, registered, scripted, states

pytestmark = pytest.mark.unfinished("models without files")

UNLOAD, KEEP = Unload(model="m", reason=""), Keep(model="m", reason="")
QUEUE = Queue(model="m", reason="no room")


def plan_of(*actions: Any, **given: Any) -> Plan:
    fields: dict[str, Any] = {"author": "rules", "trigger": Trigger.SWEEP, "actions": actions}
    return Plan(**(fields | given))


class Answers:
    """A brain whose plans a test chooses; it notes what it was asked."""

    def __init__(self, *plans: Plan, advice: Advice | None = None) -> None:
        self.plans = list(plans)
        self.asked: list[tuple[Question, Fleet, Advice | None]] = []
        self.advised: list[Fleet] = []
        self._advice = advice

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        self.advised.append(fleet)
        return self._advice

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        self.asked.append((question, fleet, advice))
        return self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]


def answering(world: World, *plans: Plan, advice: Advice | None = None) -> Answers:
    brain = Answers(*plans, advice=advice)
    world.services = replace(world.services, brain=brain)
    return brain


# --- whether it changes anything, and whether it is stale -----------------------------------------


def test_a_plan_is_effective_by_any_of_its_actions() -> None:
    queued = fleets.fleet(fleets.model("m", state=ModelState.QUEUED))
    assert not effective(plan_of(), queued)
    assert not effective(plan_of(KEEP, QUEUE, KEEP), queued)
    assert effective(plan_of(KEEP, QUEUE, UNLOAD), queued)
    assert effective(plan_of(QUEUE), fleets.fleet()), "it is not known"
    assert effective(plan_of(KEEP, QUEUE), fleets.fleet(fleets.model("m")))
    assert effective(plan_of(Reject(model="m", reason="")), queued)


def stale(plan: Plan, **traffic: Any) -> bool:
    model = fleets.loaded("m", "n/g0", traffic=Traffic(**traffic))
    busy = Traffic(in_flight=9, last_request_at=1e12)
    return planning._is_stale(plan, fleets.fleet(model, fleets.loaded("x", "n/g1", traffic=busy)))


def test_a_plan_is_stale_once_the_store_or_the_traffic_of_its_models_changed() -> None:
    plan = plan_of(UNLOAD, revision=7, at=100.0)
    assert not stale(plan)
    assert not stale(plan, last_request_at=100.0)
    assert stale(plan, last_request_at=100.1)
    assert stale(plan, in_flight=1)
    assert stale(plan_of(UNLOAD, revision=6, at=100.0))
    assert not stale(plan_of(revision=7, at=100.0), in_flight=1), "it acts on none"


def test_an_operators_plan_is_never_stale() -> None:
    assert not stale(plan_of(UNLOAD, author="operator", revision=1), in_flight=1)


@pytest.mark.parametrize("trigger", list(Trigger))
@pytest.mark.parametrize("paused", [False, True])
async def test_idle_models_are_kept_by_a_review_during_a_pause(
    world: World, trigger: Trigger, paused: bool
) -> None:
    sweeps = Sweeps(scheduled=True)
    sweeps.pause(5.0 if paused else None)
    services = replace(world.services, sweeps=sweeps)
    question = asked(services, trigger, "m")
    assert (question.trigger, question.model) == (trigger, "m")
    assert question.now == pytest.approx(world.clock.time(), abs=1.0)
    assert question.unload_idle is not (paused and trigger is Trigger.REVIEW)
    assert asked(services, trigger).model is None


# --- sweeping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", [Trigger.SWEEP, Trigger.UPKEEP])
async def test_a_sweep_is_noted_and_decided_where_something_is_due(
    world: World, trigger: Trigger
) -> None:
    registered(world, "m")
    brain = answering(world, plan_of(reason="nothing is due"), plan_of(UNLOAD))
    sweeps = Sweeps(scheduled=True)
    world.services = replace(world.services, sweeps=sweeps)
    script = scripted(world, decide=Report(stage="decide", outcome="planned"))
    world.clock.advance(50.0)
    fleet = await snapshot(world.services)
    nothing = await sweep(world.services, fleet, trigger)
    assert nothing == Report(stage="decide", outcome="nothing", reason="nothing is due")
    assert script.asked == []
    swept_at = 50.0 if trigger is Trigger.SWEEP else 0.0
    assert sweeps._swept_at == pytest.approx(swept_at, abs=1.0)
    assert (await sweep(world.services, fleet, trigger)).outcome == "planned"
    ((stage, given),) = script.asked
    assert (stage, given["model"], given["trigger"]) == ("decide", None, trigger.value)
    assert given["plan"] == plan_of(UNLOAD, revision=fleet.revision, at=fleet.at)
    assert [(q.trigger, q.model) for q, _fleet, _advice in brain.asked] == [(trigger, None)] * 2


# --- placing --------------------------------------------------------------------------------------


async def test_a_plan_that_was_handed_over_is_booked_as_it_is(world: World) -> None:
    registered(world, "m")
    ready(world, "m")
    brain = answering(world, plan_of())
    fleet = await snapshot(world.services)
    plan = plan_of(UNLOAD, revision=fleet.revision, at=fleet.at)
    decision = await place(world.services, asked(world.services, Trigger.SWEEP), plan)
    assert (decision.plan.actions, brain.asked, brain.advised) == ((UNLOAD,), [], [])
    assert decision.snapshot_digest and decision.outcome == "accepted"
    assert states(world) == {"m": "draining"}


async def test_a_stale_plan_is_made_anew_with_the_time_of_now(world: World) -> None:
    registered(world, "m")
    ready(world, "m")
    brain = answering(world, plan_of(KEEP, subject="m"))
    question = asked(world.services, Trigger.SWEEP)
    world.clock.advance(100.0)
    plan = plan_of(UNLOAD, revision=0)
    decision = await place(world.services, question, plan)
    assert decision.plan.actions == (KEEP,)
    ((again, fleet, _advice),) = brain.asked
    assert again.now == pytest.approx(question.now + 100.0, abs=1.0)
    assert fleet.revision == world.store.revision()


async def test_a_plan_that_the_policy_forbids_by_now_is_made_anew_once(world: World) -> None:
    registered(world, "m")
    ready(world, "m")
    world.store.rules.set_pinned("m", True)
    brain = answering(world, plan_of(KEEP, subject="m"))
    fleet = await snapshot(world.services)
    plan = plan_of(UNLOAD, revision=fleet.revision, at=fleet.at)
    decision = await place(world.services, asked(world.services, Trigger.SWEEP), plan)
    assert (decision.outcome, decision.plan.actions) == ("done", (KEEP,))
    assert len(brain.asked) == 1 and events(world, "plan.refused") == []
    assert len(world.clock.slept) == 1 and 0.0 <= world.clock.slept[0] <= 0.05
    assert world.store.decisions.newest(model="m")[0] == decision


@pytest.mark.parametrize("author", ["rules", "operator"])
async def test_a_forbidden_plan_is_refused_and_recorded(world: World, author: str) -> None:
    registered(world, "m")
    ready(world, "m")
    world.store.rules.set_pinned("m", True)
    plan = plan_of(UNLOAD, subject="m", author=author)
    brain = answering(world, plan)
    given = plan if author == "operator" else None
    question = asked(world.services, Trigger.SWEEP, "m")
    world.clock.advance(5.0)
    with pytest.raises(PlanRejected) as rejected:
        await place(world.services, question, given)
    assert len(brain.asked) == (0 if given else 1)
    (violation,) = rejected.value.violations
    ((name, detail),) = events(world, "plan.refused")
    made = world.store.decisions.get(detail["decision"])
    assert (name, detail) == (
        "m",
        {
            "about": "m",
            "rule": "pinned",
            "reason": violation.message,
            "author": author,
            "trigger": "sweep",
            "decision": made.id,
        },
    )
    assert (made.outcome, made.violations, made.trace) == ("refused", (violation,), {})
    assert made.at == made.finished_at == pytest.approx(world.clock.time(), abs=1.0)
    assert made.plan.revision > 0 and made.snapshot_digest
    assert 'modelium_policy_refusals_total{rule="pinned"} 1.0' in world.exposed()
    assert f'author="{author}",trigger="sweep"}} 1.0' in world.exposed()
    assert states(world) == {"m": "ready"}


@pytest.mark.parametrize(
    ("trigger", "subject", "traced", "recorded"),
    [
        (Trigger.OPERATOR, "m", False, True),
        (Trigger.DEMAND, "m", False, False),
        (Trigger.SWEEP, None, False, False),
        (Trigger.REVIEW, None, True, True),
        (Trigger.REVIEW, None, False, False),
    ],
)
async def test_a_plan_without_effect_is_recorded_where_somebody_asks(
    world: World, trigger: Trigger, subject: str | None, traced: bool, recorded: bool
) -> None:
    registered(world, "m")
    advice = Advice(trace={"rounds": 1} if traced else {})
    brain = answering(world, plan_of(KEEP, subject=subject, trigger=trigger), advice=advice)
    decision = await place(world.services, asked(world.services, trigger, subject))
    assert (decision.outcome, decision.violations) == ("done", ())
    assert (decision in world.store.decisions.newest()) is recorded
    ((_question, _fleet, given),) = brain.asked
    advised = trigger is Trigger.REVIEW
    assert given == (advice if advised else None)
    assert len(brain.advised) == advised
    assert sorted(decision.trace) == (["page", "rounds", "snapshot"] if traced else [])


async def test_a_fleet_that_keeps_changing_ends_after_so_many_plans(world: World) -> None:
    registered(world, "m")
    ready(world, "m")
    registered(world, "x")

    class Overtaken(Answers):
        async def decide(self, *given: Any) -> Plan:
            world.store.rules.set_pinned("x", len(self.asked) % 2 == 0)
            return await super().decide(*given)

    brain = Overtaken(plan_of(UNLOAD))
    world.services = replace(world.services, brain=brain)
    with pytest.raises(StalePlan, match="the fleet kept changing while plans were made; try again"):
        await place(world.services, asked(world.services, Trigger.SWEEP))
    assert len(brain.asked) == len(world.clock.slept) == planning.STALE_ATTEMPTS == 12
    assert max(world.clock.slept) > 0.05, "later pauses are longer"
    for number, pause in enumerate(world.clock.slept, 1):
        assert 0.0 <= pause <= 0.05 * number
    assert states(world)["m"] == "ready"


class Advised(Answers):
    """A brain whose plan by advice is the first, and whose plan by rules alone is the second."""

    def __init__(self, world: World, *plans: Plan, overtaken: bool) -> None:
        super().__init__(*plans, advice=Advice(reason="x", trace={"rounds": 1}))
        self._world = world
        self._overtaken = overtaken

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        self.asked.append((question, fleet, advice))
        by_llm, by_rules = self.plans
        if advice is not None and not advice.fallback:
            if self._overtaken:
                self._world.store.rules.set_pinned("x", len(self.asked) % 2 == 0)
            return by_llm
        return by_rules.model_copy(update={"fallback": advice.fallback if advice else ""})


@pytest.mark.parametrize("overtaken", [False, True], ids=["forbidden", "overtaken"])
async def test_after_two_plans_in_vain_the_advice_is_dropped(world: World, overtaken: bool) -> None:
    for name in ("m", "x"):
        registered(world, name)
        ready(world, name)
    world.store.rules.set_pinned("m", not overtaken)
    by_llm = plan_of(UNLOAD, author="llm", trigger=Trigger.REVIEW)
    by_rules = plan_of(KEEP, trigger=Trigger.REVIEW)
    brain = Advised(world, by_llm, by_rules, overtaken=overtaken)
    world.services = replace(world.services, brain=brain)
    decision = await place(world.services, asked(world.services, Trigger.REVIEW))
    why = (
        "the fleet changed while the plan was made; planning again"
        if overtaken
        else "the plan is not allowed: m: it is pinned; run `modelium pin m --off` first"
    )
    given = [advice.fallback if advice else None for _question, _fleet, advice in brain.asked]
    assert given == ["", "", f"stale-advice: {why}"]
    assert len(brain.advised) == 1 and len(world.clock.slept) == 2
    assert (decision.outcome, decision.plan.author, decision.plan.actions) == (
        "done",
        "rules",
        (KEEP,),
    )
    assert decision.plan.fallback == f"stale-advice: {why}"
    assert decision.trace["rounds"] == 1, "what the LLM was asked is recorded all the same"
    assert events(world, "plan.refused") == []
    assert states(world)["m"] == "ready"


async def test_the_rules_own_plan_is_refused_at_once_where_advice_was_none(world: World) -> None:
    registered(world, "m")
    ready(world, "m")
    world.store.rules.set_pinned("m", True)
    plan = plan_of(UNLOAD, trigger=Trigger.REVIEW)
    brain = answering(world, plan, advice=Advice(fallback="timeout: x"))
    with pytest.raises(PlanRejected):
        await place(world.services, asked(world.services, Trigger.REVIEW))
    assert len(brain.asked) == 1 and len(events(world, "plan.refused")) == 1


async def test_what_is_queued_or_rejected_is_told_once(world: World) -> None:
    for name in ("m", "x", "y", "z"):
        registered(world, name)
        world.store.states.mark_analyzed(name)
    (other, bad) = (Queue(model="x", reason="behind m"), Reject(model="y", reason="too big"))
    brain = answering(world, plan_of(QUEUE, other, bad, Keep(model="z", reason="")))
    question = asked(world.services, Trigger.SWEEP)
    decision = await place(world.services, question)
    assert [(e.kind, e.model, dict(e.detail)) for e in world.heard] == [
        ("model.queued", "m", {"reason": "no room", "decision": decision.id}),
        ("model.queued", "x", {"reason": "behind m", "decision": decision.id}),
        ("model.failed", "y", {"reason": "too big", "decision": decision.id}),
    ]
    brain.plans = [plan_of(QUEUE, other, bad)]
    world.heard.clear()
    await place(world.services, question)
    assert [(e.kind, e.model) for e in world.heard] == [("model.failed", "y")]


# --- deciding -------------------------------------------------------------------------------------


async def test_a_decision_evicts_and_then_starts_its_loads(world: World) -> None:
    for name in ("m", "x"):
        registered(world, name)
    ready(world, "m")
    world.store.states.mark_analyzed("x")
    load = Load(
        model="x",
        runtime=RuntimeName.RAY_SERVE,
        devices=(CPU.id,),
        reserve={CPU.id: 1},
        reason="asked",
    )
    answering(world, plan_of(UNLOAD, load, subject="x", fallback="timeout", reason="room"))
    await world.services.runtime_monitor.observe({})
    owners = world.services.owners
    owned: list[tuple[str, bool, bool]] = []
    script = scripted(world)
    run = script.run

    async def noting(stage: Any, **given: Any) -> Report:
        owned.append((stage, "m" in owners, "x" in owners))
        return await run(stage, **given)

    script.run = noting  # type: ignore[method-assign]
    made = await decide(world.services, model="x", trigger="sweep")
    await background(world)
    assert script.asked == [
        ("evict", {"models": ["m"], "decision": made.decision, "reason": ""}),
        ("load", {"model": "x", "decision": made.decision}),
    ]
    assert owned == [("evict", True, True), ("load", False, True)]
    assert "x" not in owners
    assert (made.outcome, made.runtime, made.devices) == ("load", RuntimeName.RAY_SERVE, (CPU.id,))
    assert made.reason == "asked"
    assert (made.details["fallback"], made.details["trigger"]) == ("timeout", "sweep")
    assert [each["action"] for each in made.details["actions"]] == ["unload", "load"]
    assert world.store.decisions.get(made.decision or "").outcome == "accepted"


async def test_a_decision_without_evictions_evicts_nothing(world: World) -> None:
    registered(world, "m")
    world.store.states.mark_analyzed("m")
    brain = answering(world, plan_of(QUEUE, reason="later"))
    script = scripted(world)
    made = await decide(world.services, trigger="sweep")
    assert (made.outcome, made.reason, made.model) == ("planned", "later", None)
    assert script.asked == []
    assert world.store.decisions.get(made.decision or "").outcome == "done"
    brain.plans = [plan_of(KEEP)]
    assert (await decide(world.services, trigger="sweep")).outcome == "planned"
    brain.plans = [plan_of()]
    assert (await decide(world.services, trigger="sweep")).outcome == "nothing"


async def test_what_the_caller_carries_out_is_not_carried_out_twice(world: World) -> None:
    registered(world, "m")
    ready(world, "m")
    answering(world, plan_of(UNLOAD, subject="m"))
    script = scripted(world)
    made = await decide(world.services, model="m", trigger="sweep", carry_out=False, handed=True)
    assert (made.outcome, script.asked) == ("unload", [])
    assert world.store.decisions.get(made.decision or "").outcome == "accepted"


def test_a_report_has_the_devices_of_a_load_alone() -> None:
    plan = plan_of(UNLOAD, reason="whole")
    decision = Decision(id="d", at=0.0, plan=plan, snapshot_digest="")
    found = report(decision, "m")
    assert (found.runtime, found.devices, found.reason) == (None, (), "")
    assert report(decision, None).reason == "whole"
    assert (found.decision, found.stage) == ("d", "decide")


# --- the snapshot ---------------------------------------------------------------------------------


def test_a_digest_depends_on_every_part_of_the_fleet() -> None:
    fleet = fleets.fleet(fleets.loaded("m", "n/g0"))
    parts: list[dict[str, Any]] = [
        {},
        {"at": 1.0},
        {"revision": 8},
        {"models": ()},
        {"devices": ()},
        {"bookings": ()},
        {"runtimes": ()},
    ]
    digests = [digest(fleet.model_copy(update=part)) for part in parts]
    assert len(set(digests)) == len(parts) and {len(each) for each in digests} == {16}
    assert digest(fleet) == digests[0]
