from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.rules.planner import RulePlanner
from modelium.lifecycle import ModelState
from modelium.models import Fleet, Trigger, Unload
from modelium.policy import Policy, validate
from modelium.ports import Question
from tests.fakes.fleets import NOW, estimate
from tests.fakes.random_fleets import fleets, fleets_over_nodes, policies

pytestmark = pytest.mark.slow

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PLANNER = RulePlanner(estimate=estimate)


@RELAXED
@given(data=st.data(), fleet=fleets(), policy=policies())
def test_its_plans_are_always_accepted(data: st.DataObject, fleet: Fleet, policy: Policy) -> None:
    trigger = data.draw(st.sampled_from(list(Trigger)))
    whole = trigger in (Trigger.SWEEP, Trigger.UPKEEP, Trigger.REVIEW)
    subject = None if whole else data.draw(st.sampled_from([m.name for m in fleet.models]))
    plan = PLANNER.plan(Question(trigger=trigger, model=subject, now=NOW), fleet, policy)
    assert validate(plan, fleet, policy, now=NOW) == []
    assert (plan.trigger, plan.subject, plan.revision) == (trigger, subject, fleet.revision)
    if subject is not None:
        assert plan.actions[-1].model == subject
    for action in plan.actions:
        assert action.reason
        if isinstance(action, Unload):
            traffic = fleet.models_by_name[action.model].traffic
            assert traffic.in_flight == traffic.pending == 0


@RELAXED
@given(data=st.data(), fleet=fleets_over_nodes(), policy=policies())
def test_over_nodes_they_are_accepted_too_and_use_none_that_takes_no_models(
    data: st.DataObject, fleet: Fleet, policy: Policy
) -> None:
    trigger = data.draw(st.sampled_from(list(Trigger)))
    whole = trigger in (Trigger.SWEEP, Trigger.UPKEEP, Trigger.REVIEW)
    subject = None if whole else data.draw(st.sampled_from([m.name for m in fleet.models]))
    plan = PLANNER.plan(Question(trigger=trigger, model=subject, now=NOW), fleet, policy)
    assert validate(plan, fleet, policy, now=NOW) == []
    for load in plan.loads:
        nodes = [fleet.nodes_by_name[device.partition("/")[0]] for device in load.devices]
        assert not any(node.silent or node.strays or not node.report.settled for node in nodes)
        if fleet.models_by_name[load.model].state is not ModelState.SLEEPING:
            assert all(node.placeable for node in nodes)
    for unload in plan.unloads:
        held = fleet.models_by_name[unload.model].deployment
        assert held is None or not any(fleet.nodes_by_name[name].silent for name in held.nodes)


@RELAXED
@given(fleet=fleets(), policy=policies())
def test_the_same_question_has_the_same_answer(fleet: Fleet, policy: Policy) -> None:
    question = Question(trigger=Trigger.SWEEP, now=NOW)
    again = Fleet.model_validate(fleet.model_dump())
    assert PLANNER.plan(question, fleet, policy) == PLANNER.plan(question, again, policy)
