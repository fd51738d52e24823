"""A runtime that keeps failing a class of models is avoided while another one can serve it."""

from __future__ import annotations

from typing import Any

from agents.llm.what_if import emptied
from agents.rules.planner import RulePlanner
from modelium.lifecycle import ModelState
from modelium.models import (
    Fleet,
    Load,
    Model,
    Preference,
    Priority,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Setbacks,
    Trigger,
)
from modelium.models.advice import RULES_ALONE, Advice
from modelium.models.outcomes import ClassFailures, ModelClass
from modelium.policy import Policy, validate
from modelium.ports import Question
from tests.fakes.fleets import NOW, estimate, fleet, loaded, model, policy, profile

V, RAY = RuntimeName.VLLM, RuntimeName.RAY_SERVE
AVOIDED = "not in vllm, where the last 3 loads of models of its class failed (x, y)"


def failing(*runtimes: RuntimeName) -> tuple[ClassFailures, ...]:
    return tuple(
        ClassFailures(
            model_class=ModelClass.of(profile(1)),
            runtime=runtime,
            failures=3,
            models=("x", "y"),
            last_at=NOW - 10,
        )
        for runtime in runtimes
    )


def planned(
    world: Fleet,
    by: Policy | None = None,
    trigger: Trigger = Trigger.INGEST,
    advice: Advice = RULES_ALONE,
) -> Load:
    question = Question(trigger=trigger, model="a", now=NOW)
    plan = RulePlanner(estimate=estimate).plan(question, world, by or policy(), advice)
    assert validate(plan, world, by or policy(), now=NOW) == []
    (action,) = [a for a in plan.actions if a.model == "a"]
    assert isinstance(action, Load)
    return action


def world(subject: Model, *runtimes: RuntimeName, **given: Any) -> Fleet:
    return fleet(subject, class_failures=failing(*runtimes), **given)


def test_it_is_loaded_where_its_class_did_not_fail_and_the_reason_says_so() -> None:
    assert planned(world(model("a"))).runtime is V
    action = planned(world(model("a"), V))
    assert action.runtime is RAY
    assert action.reason == f"ray_serve on n/g0, 10.00 GiB reserved; {AVOIDED}"


def test_without_another_runtime_it_is_loaded_where_it_can_be_and_no_reason_is_claimed() -> None:
    only = profile(10, runtimes=(RuntimeSupport(runtime=V, supported=True),))
    both = world(model("a"), V, RAY)
    away = tuple(RuntimeStatus(name=n, enabled=True, healthy=n is V) for n in (V, RAY))
    for case in (
        world(model("a", profile=only), V),
        both,
        world(model("a"), V, runtimes=away),
    ):
        action = planned(case)
        assert (action.runtime, action.reason) == (V, "vllm on n/g0, 10.00 GiB reserved")


def test_a_runtime_that_cannot_hold_it_is_no_other_one() -> None:
    def needs(given: Any, **asked: Any) -> Any:
        wide = asked["runtime"] is RAY
        return estimate(given.model_copy(update={"weight_bytes": 2**50}) if wide else given)

    question = Question(trigger=Trigger.INGEST, model="a", now=NOW)
    plan = RulePlanner(estimate=needs).plan(question, world(model("a"), V), policy())
    (action,) = plan.loads
    assert action.runtime is V


def test_its_own_failures_count_more_than_those_of_its_class() -> None:
    failed = model("a", failures=2, setbacks=Setbacks(runtimes={RAY: 2}))
    action = planned(world(failed, V))
    assert action.runtime is V
    assert action.reason == (
        "vllm on n/g0, 10.00 GiB reserved; not where it failed before (times): ray_serve (2)"
    )


def test_a_runtime_that_failed_both_is_named_once() -> None:
    failed = model("a", failures=2, setbacks=Setbacks(runtimes={V: 2}))
    action = planned(world(failed, V))
    assert action.reason == (
        "ray_serve on n/g0, 10.00 GiB reserved; not where it failed before (times): vllm (2)"
    )


def test_a_preference_for_an_avoided_runtime_waits() -> None:
    preferring = model("a", preference=Preference(runtime=V))
    assert planned(world(preferring, V)).runtime is RAY
    assert planned(world(preferring)).runtime is V


def test_no_advice_leads_into_an_avoided_runtime() -> None:
    wanted = Advice(preferences={"a": Preference(runtime=V)}, priorities={"a": Priority.HIGH})
    action = planned(world(model("a"), V), advice=wanted)
    assert (action.runtime, action.priority) == (RAY, Priority.HIGH)
    assert AVOIDED in action.reason


def test_a_trial_on_empty_devices_avoids_it_too() -> None:
    subject = model("a")
    assert planned(emptied(world(subject, V), subject)).runtime is RAY


def test_a_sleeping_model_wakes_where_it_is() -> None:
    asleep = loaded("a", "n/g0", state=ModelState.SLEEPING)
    action = planned(world(asleep, V), trigger=Trigger.DEMAND)
    assert (action.runtime, AVOIDED in action.reason) == (V, False)


def test_an_operator_may_switch_it_off() -> None:
    assert planned(world(model("a"), V), policy(avoid_runtime_after=0)).runtime is V
