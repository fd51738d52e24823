from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    Habit,
    Load,
    MeasuredLoad,
    Model,
    Removal,
    RuntimeName,
    Traffic,
    Trigger,
)
from modelium.models.advice import RULES_ALONE, Advice
from modelium.ports import Question
from modelium.traffic.daily_pattern import with_request
from tests.agents.rules.asking import PLANNER, ask
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile


def prewarm_reason(seen: Traffic) -> str:
    """The reason of the sweep that loads a model with this traffic, where there is room alone."""
    soon = model("soon", state=ModelState.UNLOADED, traffic=seen)
    (load,) = ask(fleet(soon), Trigger.SWEEP).actions
    assert isinstance(load, Load)
    full = loaded("x", "n/g0", gib=65)
    assert ask(fleet(soon, full, gpus=1), Trigger.SWEEP).actions == ()
    return load.reason


def test_a_model_on_a_timer_is_prewarmed_into_free_memory_with_the_reason() -> None:
    every_20_minutes = Traffic(
        first_request_at=NOW - 86_400,
        last_request_at=NOW - 1100,
        rates=(0.0, 0.0, 0.0005, 0.0008),
        intervals=(0,) * 10 + (70,) + (0,) * 5,
    )
    assert "prewarm" in prewarm_reason(every_20_minutes)


def test_a_model_requested_daily_at_this_time_is_prewarmed_with_the_reason() -> None:
    habit = Habit()
    for days in (4, 3, 2, 1):
        habit = with_request(habit, NOW + 30 - days * 86_400)
    daily = Traffic(
        first_request_at=NOW + 30 - 4 * 86_400,
        last_request_at=NOW + 30 - 86_400,
        rates=(0.0,) * 4,
        habit=habit,
    )
    why = prewarm_reason(daily)
    assert "prewarmed: requests began at this time on 4 of the last 4 days" in why


def timed(name: str, *, ends: int = 70, load_s: float = 30.0, **given: Any) -> Model:
    """A model whose gaps of 10 to 20 min all end within its load, or ``ends`` of 100 do."""
    seen = Traffic(
        first_request_at=NOW - 86_400,
        last_request_at=NOW - 1199,
        rates=(0.0,) * 4,
        intervals=(*(0,) * 10, ends * 1200, 0 if ends == 70 else (100 - ends) * 2, *(0,) * 4),
    )
    took = MeasuredLoad(
        runtime=RuntimeName.VLLM, device_kind="H100", settings_digest="",
        per_device_bytes=1, load_s=load_s, at=NOW,
    )  # fmt: skip
    fields = {"state": ModelState.UNLOADED, "traffic": seen, "measured": (took,)}
    return model(name, 5, **{**fields, **given})


def prewarmed(*models: Model, advice: Advice = RULES_ALONE, **given: Any) -> list[str]:
    question = Question(trigger=Trigger.SWEEP, now=NOW)
    plan = PLANNER.plan(question, fleet(*models, **given), policy(), advice)
    assert all(load.reason.startswith("prewarmed: ") for load in plan.loads)
    return [action.model for action in plan.actions]


def test_the_two_whose_loads_would_be_waited_for_longest_are_prewarmed() -> None:
    models = [timed("a", load_s=20), timed("b", load_s=40), timed("c", load_s=30)]
    assert prewarmed(*models) == prewarmed(*reversed(models)) == ["b", "c"]
    alike = [timed(name) for name in "cab"]
    assert prewarmed(*alike) == ["a", "b"]


def test_a_likely_request_counts_more_than_a_long_load() -> None:
    # The rest of the silences of "less" ends later: 40 of 100 gaps.
    less = timed("less", ends=40, load_s=40)
    assert prewarmed(less, timed("sure", load_s=30), timed("sure-2", load_s=30)) == [
        "sure",
        "sure-2",
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"state": ModelState.ANALYZED},
        {"state": ModelState.FAILED},
        {"retry_at": NOW + 1},
        {"evicted_at": NOW - 29},
        {"removal": Removal(by="ann", at=1)},
        {"profile": None},
        {"profile": profile(5, needs_remote_code=True)},
    ],
)
def test_what_cannot_be_loaded_now_is_not_prewarmed(given: dict[str, Any]) -> None:
    assert prewarmed(timed("a", **given)) == []
    advice = Advice(prewarm=("a", "b"))
    assert prewarmed(timed("a", **given), idle("b"), advice=advice) == ["b"]
    assert prewarmed(timed("a", evicted_at=NOW - 30)) == ["a"]


def idle(name: str, **given: Any) -> Model:
    return model(name, 5, **{"state": ModelState.UNLOADED, **given})


def test_what_was_decided_before_is_not_prewarmed() -> None:
    full = loaded("x", "n/g0", gib=70, pinned=True)
    asked = timed("a", load_s=99)
    asked = asked.model_copy(update={"traffic": asked.traffic.model_copy(update={"pending": 1})})
    plan = ask(fleet(asked, full, gpus=1), Trigger.SWEEP)
    assert [action.action for action in plan.actions] == ["queue"]
    advice = Advice(prewarm=("a",))
    question = Question(trigger=Trigger.SWEEP, now=NOW)
    plan = PLANNER.plan(question, fleet(asked, full, gpus=1), policy(), advice)
    assert [action.action for action in plan.actions] == ["queue"]
    plan = PLANNER.plan(question, fleet(asked), policy(), advice)
    assert [action.action for action in plan.actions] == ["load"]


def test_advice_prewarms_two_models_in_its_order() -> None:
    models = [idle(name) for name in "abcd"]
    assert prewarmed(*models, advice=Advice(prewarm=("d", "ghost", "a"))) == ["d"]
    assert prewarmed(*models, advice=Advice(prewarm=("ghost", "a", "b"))) == ["a"]
    assert prewarmed(*models, advice=Advice(prewarm=("d", "a", "b"))) == ["d", "a"]
    (load,) = PLANNER.plan(
        Question(trigger=Trigger.SWEEP, now=NOW),
        fleet(idle("a")),
        policy(),
        Advice(prewarm=("a", "a")),
    ).loads
    assert load.reason == "prewarmed: the LLM advised it; vllm on n/g0, 5.00 GiB reserved"


def test_prewarming_evicts_nothing() -> None:
    full = loaded("x", "n/g0", gib=70)
    assert prewarmed(timed("a"), full, gpus=1) == []
    assert prewarmed(idle("a"), full, gpus=1, advice=Advice(prewarm=("a",))) == []
