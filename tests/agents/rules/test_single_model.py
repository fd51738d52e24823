from __future__ import annotations

from modelium.models import (
    GIB,
    Load,
    Priority,
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
    assert plan.actions == () and "ghost" in plan.reason
