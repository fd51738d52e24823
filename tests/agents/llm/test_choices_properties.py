"""Whatever is wished, sensible or not: the plan is one that the policy accepts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.brain import AdvisedBrain
from agents.llm.choices import open_fields, parse_answer
from agents.llm.departing import departures
from agents.llm.ingest_choices import ingest_choices
from agents.llm.review_choices import review_choices
from agents.rules.planner import RulePlanner
from bench.brain_harms import harms
from bench.brain_players import DEPARTURES
from bench.scenarios import Scenario
from modelium.clock import SystemClock
from modelium.models import (
    Departure,
    DepartureKind,
    Fleet,
    LoadSettings,
    Plan,
    Preference,
    RuntimeName,
    Trigger,
)
from modelium.models.advice import Advice, Spot
from modelium.policy import Policy, validate
from modelium.ports import Question
from tests.agents.advising import REVIEW, waiting
from tests.fakes.fleets import NOW, estimate
from tests.fakes.fleets import fleet as fleet_of
from tests.fakes.fleets import policy as policy_of
from tests.fakes.random_fleets import fleets, policies
from tests.fakes.trust import earned

pytestmark = pytest.mark.slow

RULES = RulePlanner(estimate=estimate)
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.sampled_from([f"m{i}" for i in range(8)])


@st.composite
def wishes(draw: st.DrawFn, of: Fleet) -> Advice:
    """Any advice at all, but for classes: those are bounded by the form that they come in."""
    settings_ = st.builds(
        LoadSettings,
        max_model_len=st.sampled_from([None, 1, 512, 2048, 10**9]),
        max_num_seqs=st.sampled_from([None, 1, 10**4]),
        tensor_parallel_size=st.sampled_from([1, 2, 3, 64]),
    )
    preference = st.builds(
        Preference, runtime=st.sampled_from([None, *RuntimeName]), settings=settings_
    )
    names = st.lists(NAMES, max_size=6).map(tuple)
    devices = st.sampled_from([*(d.id for d in of.devices), "n/none"])
    spots = st.builds(
        Spot, devices=st.lists(devices, min_size=1, max_size=3).map(tuple), evicts=names
    )
    return Advice(
        preferences=draw(st.dictionaries(NAMES, preference, max_size=4)),
        keep=draw(names),
        evict=draw(names),
        order=draw(names),
        prewarm=draw(names),
        hold=draw(names),
        spare=draw(names),
        spots=draw(st.dictionaries(NAMES, spots, max_size=4)),
    )


def legal(names: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """A legal value for each field."""
    return {
        name: data.draw(
            st.lists(st.sampled_from(one.allowed), max_size=one.most)
            if one.many
            else st.sampled_from(one.allowed)
        )
        for name, one in names.items()
    }


@RELAXED
@given(fleet=fleets(), policy=policies(), data=st.data())
def test_a_plan_with_any_wishes_is_accepted(
    fleet: Fleet, policy: Policy, data: st.DataObject
) -> None:
    trigger = data.draw(st.sampled_from([Trigger.INGEST, Trigger.REVIEW]))
    subject = data.draw(st.sampled_from(fleet.models)).name if trigger is Trigger.INGEST else None
    question = Question(trigger=trigger, model=subject, now=NOW)
    plan = RULES.plan(question, fleet, policy, data.draw(wishes(fleet)))
    # Wishes come out of a form that bounds them; these here do not, and absurd values are refused.
    broken = [v for v in validate(plan, fleet, policy, now=NOW) if v.rule != "setting"]
    assert broken == []


def test_only_what_is_declared_and_allowed_is_given_up() -> None:
    """The check of harm itself: a plan that departs in secret, or too dearly, is harm."""
    late = waiting("late", 20)
    known, may = (
        fleet_of(late, departures=earned()),
        policy_of(departures={DepartureKind.QUEUE: 30.0}),
    )
    rules = RULES.plan(REVIEW, known, may)
    scenario = Scenario(
        name="", kind="", question=REVIEW, fleet=known, policy=may, best=lambda plan: True
    )

    def harm(plan: Plan) -> list[str]:
        return harms(scenario, plan, rules)

    nothing = Plan(author="llm", trigger=Trigger.REVIEW)
    one = Departure(kind=DepartureKind.QUEUE, model="late", price_s=20.0, until=NOW + 600)
    assert harm(nothing) == ["0 models are loaded; the rules load 1"]
    assert harm(nothing.model_copy(update={"departures": (one,)})) == []
    dear = one.model_copy(update={"price_s": 31.0})
    found = harm(nothing.model_copy(update={"departures": (dear,)}))
    assert "queue gives up 31 load-seconds; 30 are allowed" in found
    other = one.model_copy(update={"kind": DepartureKind.SPARE})
    found = harm(nothing.model_copy(update={"departures": (other,)}))
    assert "spare gives up 20 load-seconds; 0 are allowed" in found


@RELAXED
@given(fleet=fleets(), policy=policies(), data=st.data())
def test_a_legal_choice_that_is_not_objected_to_does_no_harm(
    fleet: Fleet, policy: Policy, data: st.DataObject
) -> None:
    trigger = data.draw(st.sampled_from([Trigger.INGEST, Trigger.REVIEW]))
    subject = data.draw(st.sampled_from(fleet.models)).name if trigger is Trigger.INGEST else None
    question = Question(trigger=trigger, model=subject, now=NOW)
    if data.draw(st.booleans()):
        bounds = st.sampled_from([0.0, 60.0, 1e6])
        may = data.draw(st.dictionaries(st.sampled_from(DepartureKind), bounds, min_size=1))
        policy = policy.model_copy(update={"departures": may})
        if data.draw(st.booleans()):
            fleet = fleet.model_copy(update={"departures": earned()})
    rules = RULES.plan(question, fleet, policy)
    find: Any = ingest_choices if trigger is Trigger.INGEST else review_choices
    choices = find(question=question, fleet=fleet, policy=policy, rules=rules, planner=RULES.plan)
    if choices is None:
        return
    parsed = parse_answer(legal({f.name: f for f in open_fields(choices)}, data), choices)
    assert parsed.violations == []
    advice = choices.advice(parsed.chosen)
    plan = RULES.plan(question, fleet, policy, advice)
    assert validate(plan, fleet, policy, now=NOW) == []
    departing = departures(rules, plan, advice, fleet=fleet, policy=policy, now=NOW)
    plan = plan.model_copy(update={"departures": departing})
    if validate(plan, fleet, policy, now=NOW):
        return  # too dear, or too many at once
    if not choices.objections(advice, plan):
        scenario = Scenario(
            name="random",
            kind="random",
            question=question,
            fleet=fleet,
            policy=policy,
            best=lambda plan: True,
        )
        assert harms(scenario, plan, rules) == []


@RELAXED
@given(fleet=fleets(), policy=policies(), data=st.data())
async def test_what_is_not_trusted_leaves_the_actions_of_the_rules(
    fleet: Fleet, policy: Policy, data: st.DataObject
) -> None:
    trigger = data.draw(st.sampled_from([Trigger.INGEST, Trigger.REVIEW]))
    subject = data.draw(st.sampled_from(fleet.models)).name if trigger is Trigger.INGEST else None
    question = Question(trigger=trigger, model=subject, now=NOW)
    may = {kind: 1e6 for kind in DepartureKind if kind is not DepartureKind.DEVICE}
    policy = policy.model_copy(update={"departures": may})
    rules = RULES.plan(question, fleet, policy)
    find: Any = ingest_choices if trigger is Trigger.INGEST else review_choices
    choices = find(question=question, fleet=fleet, policy=policy, rules=rules, planner=RULES.plan)
    if choices is None:
        return
    fields = {f.name: f for f in open_fields(choices) if f.name in DEPARTURES}
    advice = choices.advice(parse_answer(legal(fields, data), choices).chosen)
    untold: Any = None  # nobody is asked: the advice is known
    brain = AdvisedBrain(rules=RULES, agent=untold, clock=SystemClock())
    plan = await brain.decide(question, fleet, policy, advice)
    assert plan.actions == rules.actions
    assert all(d.shadow for d in plan.departures)
    if not plan.fallback and (advice.hold or advice.spots):
        assert plan.departures
    assert validate(plan, fleet, policy, now=NOW) == []
