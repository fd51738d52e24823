"""A question becomes a booked plan, a recorded refusal, or a second try on a newer fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents.rules.planner import RulePlanner
from modelium.errors import StalePlan
from modelium.lifecycle import ModelState
from modelium.models import Departure, DepartureKind, Fleet, Keep, Plan, Queue, Trigger, Unload
from modelium.models.advice import Advice
from modelium.policy import PlanRejected, Policy
from modelium.ports import Question
from modelium.stages.decide import decide
from modelium.stages.evict import evict
from modelium.stages.planning import STALE_ATTEMPTS, effective, place
from tests.fakes import fleets
from tests.fakes.llm import calls
from tests.fakes.trust import earn
from tests.modelium.conftest import Advised, World

pytestmark = pytest.mark.slow


class OvertakenBrain:
    """The rules; another change comes in while each of the first ``times`` plans is made."""

    def __init__(self, world: World, times: int) -> None:
        self._world = world
        self._times = times
        self.rules = RulePlanner()
        self.revisions: list[int] = []

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        return None

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        self.revisions.append(fleet.revision)
        if len(self.revisions) <= self._times:
            self._world.store.rules.set_pinned("other", len(self.revisions) % 2 == 1)
        return await self.rules.decide(question, fleet, policy, advice)


async def overtaken(world: World, times: int) -> OvertakenBrain:
    """Have an unloaded model, and a brain that is overtaken ``times`` times."""
    await world.load()
    await world.load("other")
    await evict(world.services, models=["tiny"])
    brain = OvertakenBrain(world, times)
    world.services = replace(world.services, brain=brain)
    return brain


async def test_a_stale_plan_is_made_again_on_the_current_fleet(world: World) -> None:
    brain = await overtaken(world, 3)
    question = Question(trigger=Trigger.OPERATOR, model="tiny")
    decision = await place(world.services, question)
    assert decision.outcome == "accepted"
    assert len(brain.revisions) == 4
    assert brain.revisions == sorted(set(brain.revisions))
    assert world.store.model("tiny").state is ModelState.LOADING
    assert world.store.decisions.newest(model="tiny")[0] == decision


async def test_a_fleet_that_never_stops_changing_is_reported(world: World) -> None:
    brain = await overtaken(world, STALE_ATTEMPTS)
    with pytest.raises(StalePlan, match="try again"):
        await place(world.services, Question(trigger=Trigger.OPERATOR, model="tiny"))
    assert len(brain.revisions) == STALE_ATTEMPTS
    assert world.store.model("tiny").state is ModelState.UNLOADED


async def test_an_operators_own_plan_stands_while_the_fleet_changes(world: World) -> None:
    await world.load()
    brain = OvertakenBrain(world, 0)
    world.services = replace(world.services, brain=brain)
    leave = Unload(model="tiny", reason="asked")
    plan = Plan(
        author="operator", trigger=Trigger.OPERATOR, actions=(leave,), revision=0, reason="asked"
    )
    decision = await place(world.services, Question(trigger=Trigger.OPERATOR), plan)
    assert decision.plan.actions == (leave,)
    assert decision.plan.revision > 0
    assert brain.revisions == []


async def test_a_refusal_is_recorded_and_is_an_event_with_its_rule(world: World) -> None:
    await world.drop()
    await world.event("model.ready")
    world.store.rules.set_pinned("tiny", True)
    with pytest.raises(PlanRejected):
        await evict(world.services, models=["tiny"])
    refused = world.heard[-1]
    assert (refused.kind, refused.model) == ("plan.refused", "tiny")
    assert (refused.detail["rule"], refused.detail["author"]) == ("pinned", "operator")
    recorded = world.store.decisions.get(refused.detail["decision"])
    assert recorded.violations and recorded.outcome == "refused"
    assert recorded.finished_at is not None
    assert world.store.model("tiny").state is ModelState.READY
    assert not world.store.view()[2][0].releasing, "a refused plan books nothing"


async def test_a_refused_plan_is_counted_by_rule(world: World) -> None:
    await world.load()
    world.store.rules.set_pinned("tiny", True)
    with pytest.raises(PlanRejected):
        await evict(world.services, models=["tiny"])
    assert 'modelium_policy_refusals_total{rule="pinned"} 1.0' in world.exposed()


async def test_queueing_is_one_event_however_often_it_is_planned(world: World) -> None:
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    await world.drop()
    await world.event("model.queued")
    await world.launcher.decide(trigger=Trigger.SWEEP)
    assert world.kinds() == [("model.registered", "tiny"), ("model.queued", "tiny")]
    assert world.heard[-1].detail["reason"]


async def test_demand_that_changes_nothing_is_not_recorded(world: World) -> None:
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    await world.drop()
    await world.event("model.queued")
    before = len(world.store.decisions.newest(model="tiny"))
    await decide(world.services, model="tiny", trigger="demand")
    assert len(world.store.decisions.newest(model="tiny")) == before
    await decide(world.services, model="tiny", trigger="operator")
    assert len(world.store.decisions.newest(model="tiny")) == before + 1


async def test_a_review_that_changes_nothing_is_recorded_all_the_same(advised: Advised) -> None:
    await advised.played_by(lambda body: calls("decide", {"prewarm": []}))
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    await evict(advised.world.services, models=["tiny"])
    advised.world.rule(reload_cooldown_s=0.0)
    await decide(advised.world.services, trigger="review")
    made = advised.world.store.decisions.newest(advised=True)[0]
    assert (made.plan.trigger, made.plan.actions) == (Trigger.REVIEW, ())
    assert made.trace["messages"]


async def test_a_departure_is_stored_stands_and_is_told(advised: Advised) -> None:
    await advised.played_by(lambda body: calls("decide", {"placement": "queue", "reason": "later"}))
    world = advised.world
    world.rule(departures={DepartureKind.QUEUE: 300.0})
    earn(world.store, world.clock, DepartureKind.QUEUE)
    await advised.drop("tiny")
    await world.settled("tiny", "queued")
    kept = world.store.departures.since(0)[0]
    assert (kept.kind, kept.model, kept.asked_at) == (DepartureKind.QUEUE, "tiny", None)
    assert not kept.shadow
    assert "the LLM has it wait" in world.store.model("tiny").reason
    made = world.store.decisions.newest(advised=True)[0]
    assert [d.model for d in made.plan.departures] == ["tiny"] and "later" in made.plan.reason
    await decide(world.services, trigger="sweep")
    assert world.store.model("tiny").state is ModelState.QUEUED
    world.clock.advance(600.0)
    await decide(world.services, trigger="sweep")
    await world.settled("tiny", "ready")


async def test_an_operator_who_loads_what_waits_is_a_sign_against_the_departure(
    advised: Advised,
) -> None:
    await advised.played_by(lambda body: calls("decide", {"placement": "queue"}))
    world = advised.world
    world.rule(departures={DepartureKind.QUEUE: 300.0})
    earn(world.store, world.clock, DepartureKind.QUEUE)
    await advised.drop("tiny")
    await world.settled("tiny", "queued")
    await decide(world.services, model="tiny", trigger="operator")
    await world.settled("tiny", "ready")
    kept = world.store.departures.since(0)[0]
    assert kept.asked_at is not None


async def test_a_departure_that_is_not_trusted_is_recorded_and_the_rules_plan_carried_out(
    advised: Advised,
) -> None:
    await advised.played_by(lambda body: calls("decide", {"placement": "queue", "reason": "later"}))
    world = advised.world
    world.rule(departures={DepartureKind.QUEUE: 300.0})
    await advised.drop("tiny")
    await world.settled("tiny", "ready")
    (kept,) = world.store.departures.since(0)
    assert (kept.kind, kept.model, kept.shadow) == (DepartureKind.QUEUE, "tiny", True)
    assert (kept.right_if, kept.wrong_if) == ((), ("tiny",))
    made = world.store.decisions.newest(advised=True)[0]
    assert made.plan.author == "llm" and [a.model for a in made.plan.loads] == ["tiny"]
    (line,) = [x for x in made.trace["page"] if x.startswith("shadow")]
    assert line.startswith("shadow     queue tiny: ")


def test_a_departure_that_leaves_all_as_it_is_has_an_effect() -> None:
    spared = Departure(kind=DepartureKind.SPARE, model="m", price_s=0.0, until=9.0)
    plan = Plan(author="llm", trigger=Trigger.REVIEW, departures=(spared,))
    assert effective(plan, fleets.fleet(fleets.model("m")))


@pytest.mark.parametrize(
    ("action", "state", "changes"),
    [
        (Keep(model="m", reason=""), ModelState.READY, False),
        (Queue(model="m", reason=""), ModelState.QUEUED, False),
        (Queue(model="m", reason=""), ModelState.UNLOADED, True),
        (Unload(model="m", reason=""), ModelState.READY, True),
    ],
)
def test_a_plan_is_effective_where_it_changes_a_state(
    action: Any, state: ModelState, changes: bool
) -> None:
    fleet = fleets.fleet(fleets.model("m", state=state))
    plan = Plan(author="rules", trigger=Trigger.SWEEP, actions=(action,))
    assert effective(plan, fleet) is changes
