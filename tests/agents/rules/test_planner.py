from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agents.rules.keep_value import keep_value
from agents.rules.planner import RulePlanner
from modelium.models import (
    Fleet,
    Footprint,
    LoadSettings,
    Plan,
    Preference,
    Priority,
    RuntimeName,
    Trigger,
)
from modelium.models.advice import RULES_ALONE, Advice
from modelium.policy import Policy
from modelium.ports import Question
from tests.agents.rules.asking import PLANNER, ask, shape, traffic
from tests.fakes.fleets import NOW, estimate, fleet, loaded, model, policy


async def test_planning_does_not_block_the_event_loop() -> None:
    went_on = threading.Event()

    def slow(*given: Any, **more: Any) -> Footprint:
        assert went_on.wait(timeout=10)
        return estimate(*given, **more)

    asyncio.get_running_loop().call_soon(went_on.set)
    question = Question(trigger=Trigger.DEMAND, model="a", now=NOW)
    plan = await RulePlanner(estimate=slow).decide(question, fleet(model("a", 20)), policy())
    assert shape(plan) == [("load", "a")]


def test_with_orchestration_off_there_are_no_actions() -> None:
    world = fleet(model("a"), loaded("b", "n/g0", idle_s=9000))
    by = policy(enabled=False)
    assert shape(ask(world, Trigger.DEMAND, "a", by)) == [("keep", "a")]
    assert ask(world, Trigger.SWEEP, by=by).actions == ()


async def test_the_rules_advise_nothing() -> None:
    assert (
        await PLANNER.advise(Question(trigger=Trigger.REVIEW, now=NOW), fleet(), policy()) is None
    )


SWEEP = Question(trigger=Trigger.SWEEP, now=NOW)
ABOUT_A = Question(trigger=Trigger.DEMAND, model="a", now=NOW)
ELSEWHERE = Plan(author="elsewhere", trigger=Trigger.SWEEP)


@pytest.mark.parametrize(
    ("answer", "question", "asked"),
    [(ELSEWHERE, SWEEP, True), (None, SWEEP, True), (ELSEWHERE, ABOUT_A, False)],
)
@pytest.mark.parametrize("advice", [None, Advice(keep=("a",))])
async def test_plans_for_the_whole_fleet_are_made_elsewhere_where_that_is_possible(
    answer: Plan | None, question: Question, asked: bool, advice: Advice | None
) -> None:
    seen: list[Any] = []

    async def offload(*given: Any) -> Plan | None:
        seen.append(given)
        return answer

    planner = RulePlanner(estimate=estimate, offload=offload)
    world, by = fleet(model("a")), policy()
    plan = await planner.decide(question, world, by, advice)
    assert seen == ([(question, world, by, advice or RULES_ALONE)] if asked else [])
    here = PLANNER.plan(question, world, by)
    assert plan == (ELSEWHERE if asked and answer else here)


def test_a_question_without_a_time_is_about_that_of_the_snapshot() -> None:
    world = fleet(loaded("a", "n/g0", idle_s=3500))
    later = Question(trigger=Trigger.SWEEP, now=NOW + 200)
    assert PLANNER.plan(Question(trigger=Trigger.SWEEP), world, policy()).actions == ()
    assert shape(PLANNER.plan(later, world, policy())) == [("unload", "a")]
    newer = world.model_copy(update={"at": NOW + 200})
    assert shape(PLANNER.plan(Question(trigger=Trigger.SWEEP), newer, policy())) == [
        ("unload", "a")
    ]


def evicted(advice: Advice, *held: Any) -> list[str]:
    world, by = fleet(model("a", 60), *held), policy()
    return [u.model for u in PLANNER.plan(ABOUT_A, world, by, advice).unloads]


def worth(name: str, device: str, requests: float) -> Any:
    return loaded(name, device, gib=60, traffic=traffic(600, requests))


def test_advice_moves_a_value_by_a_quarter() -> None:
    cheap, near, far = (
        worth("cheap", "n/g0", 0.0010),
        worth("dear", "n/g1", 0.0015),
        worth("dear", "n/g1", 0.0021),
    )
    base = keep_value(cheap, now=NOW)
    assert 1.1 < keep_value(near, now=NOW) / base < 1.25 < keep_value(far, now=NOW) / base < 1.5
    for advice in (Advice(keep=("cheap",)), Advice(evict=("dear",))):
        assert evicted(advice, cheap, near) == ["dear"]
        assert evicted(advice, cheap, far) == ["cheap"]
    assert evicted(Advice(keep=("cheap",), evict=("dear",)), cheap, far) == ["dear"]
    # Who is both is to be evicted.
    assert evicted(Advice(keep=("dear",), evict=("dear",)), cheap, near) == ["dear"]
    assert evicted(RULES_ALONE, cheap, near) == ["cheap"]


def test_advised_classes_and_preferences_are_followed() -> None:
    world: Fleet = fleet(model("a"))
    by: Policy = policy()
    wished = Preference(runtime=RuntimeName.RAY_SERVE, settings=LoadSettings(dtype="float16"))
    advice = Advice(priorities={"a": Priority.HIGH}, preferences={"a": wished})
    (load,) = PLANNER.plan(ABOUT_A, world, by, advice).loads
    assert (load.runtime, load.priority) == (RuntimeName.RAY_SERVE, Priority.HIGH)
    assert load.settings.dtype == "float16"
