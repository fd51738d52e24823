from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Keep,
    Load,
    Plan,
    Priority,
    Queue,
    Removal,
    RuntimeName,
    Trigger,
)
from modelium.ports import Question
from tests.agents.rules.asking import PLANNER, ask, crowded, shape
from tests.fakes.fleets import NOW, fleet, loaded, model, policy


async def test_a_new_model_goes_where_it_fits() -> None:
    world = fleet(model("gpt2", 5), loaded("big", "n/g0", gib=70))
    plan = await PLANNER.decide(
        Question(trigger=Trigger.INGEST, model="gpt2", now=NOW), world, policy()
    )
    (load,) = plan.actions
    assert isinstance(load, Load)
    assert (load.runtime, load.devices, load.reserve) == (
        RuntimeName.VLLM,
        ("n/g1",),
        {"n/g1": 5 * GIB},
    )
    assert load.reason and plan.candidates


def test_a_new_model_evicts_nothing_that_has_not_idled_out() -> None:
    plan = ask(fleet(model("a", 40), *crowded()), Trigger.INGEST, "a")
    assert shape(plan) == [("queue", "a")]


def test_a_new_model_may_evict_what_idled_out() -> None:
    world = fleet(model("a", 60), loaded("old", "n/g0", gib=60, idle_s=4000), gpus=1)
    assert shape(ask(world, Trigger.INGEST, "a")) == [("unload", "old"), ("load", "a")]


def test_flow_3_a_new_model_leaves_room_for_better_ranked_ones() -> None:
    drops = [
        model("experiment", 60),
        model("production-1", 60, priority=Priority.HIGH),
        model("production-2", 60, priority=Priority.HIGH),
    ]
    world = fleet(*drops)
    assert shape(ask(world, Trigger.INGEST, "experiment")) == [("queue", "experiment")]
    assert shape(ask(world, Trigger.INGEST, "production-1")) == [("load", "production-1")]


def test_an_unknown_model_gets_an_empty_plan_with_the_reason() -> None:
    plan = ask(fleet(), Trigger.DEMAND, "ghost")
    assert plan == Plan(
        author="rules",
        trigger=Trigger.DEMAND,
        subject="ghost",
        reason="no model named ghost is registered; see `modelium ls`",
        revision=7,
    )


def test_a_model_that_is_left_alone_is_kept_with_the_reason() -> None:
    going = model("a", removal=Removal(by="ann", at=1))
    plan = ask(fleet(going), Trigger.OPERATOR, "a")
    assert plan.actions == (Keep(model="a", reason="being removed; ann asked for it"),)


def test_a_model_that_cannot_run_is_not_loaded() -> None:
    fresh = model("a", profile=None, state=ModelState.QUEUED)
    plan = ask(fleet(fresh), Trigger.OPERATOR, "a")
    assert plan.actions == (Keep(model="a", reason="not analyzed yet"),)


@pytest.mark.parametrize("trigger", [Trigger.DEMAND, Trigger.OPERATOR])
def test_requests_and_operators_evict_what_is_of_least_value(trigger: Trigger) -> None:
    plan = ask(fleet(model("a", 40), *crowded()), trigger, "a")
    assert shape(plan) == [("unload", "rare"), ("load", "a")]


FULL = [loaded(f"x{i}", f"n/g{i}", gib=60, pinned=True) for i in range(2)]
ROOM = "no device has room now; models in memory: 2 pinned"


def test_a_model_without_room_is_queued_and_another_version_waits_beside_its_own() -> None:
    subject = model("a", 40)
    plan = ask(fleet(subject, *FULL), Trigger.OPERATOR, "a")
    assert plan.actions == (Queue(model="a", reason=ROOM),)
    twin = model("a@2", 40, twin_of="a")
    (kept,) = ask(fleet(twin, *FULL), Trigger.OPERATOR, "a@2").actions
    why = f"does not fit beside the version that is loaded: {ROOM}"
    assert kept == Keep(model="a@2", reason=why)
    assert shape(ask(fleet(twin), Trigger.OPERATOR, "a@2")) == [("load", "a@2")]


def other(gib: float = 60, **given: Any) -> Any:
    return model("other", gib, **{"priority": Priority.HIGH, **given})


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        (other(), "queue"),
        (other(state=ModelState.QUEUED), "queue"),
        (other(state=ModelState.UNLOADED), "load"),
        (other(state=ModelState.FAILED), "load"),
        (other(retry_at=NOW + 1), "load"),
        (other(priority=Priority.LOW), "load"),  # of the same class, and by name after it
        (other(priority=Priority.LOW, queued_at=NOW - 300), "queue"),
        (other(gib=5), "load"),
    ],
)
def test_a_new_model_leaves_room_for_those_that_wait_and_rank_before_it(
    waits: Any, expected: str
) -> None:
    plan = ask(fleet(model("a", 60), waits, gpus=1), Trigger.INGEST, "a")
    assert [action.action for action in plan.actions] == [expected]
    for trigger in (Trigger.OPERATOR, Trigger.DEMAND):
        assert shape(ask(fleet(model("a", 60), waits, gpus=1), trigger, "a")) == [("load", "a")]


def test_room_is_set_aside_for_the_best_ranked_first() -> None:
    # Room for one of them beside the new model: the better one is smaller.
    small = model("small", 10, priority=Priority.HIGH)
    large = model("large", 40, priority=Priority.MEDIUM)
    for others in ((small, large), (large, small)):
        plan = ask(fleet(model("a", 25), *others, gpus=1, gib=50), Trigger.INGEST, "a")
        assert shape(plan) == [("load", "a")]
        plan = ask(fleet(model("a", 36), *others, gpus=1, gib=50), Trigger.INGEST, "a")
        assert shape(plan) == [("queue", "a")]
