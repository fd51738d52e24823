from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    EvictionCause,
    Model,
    Preference,
    Priority,
    RuntimeName,
    Setbacks,
    Traffic,
    Trigger,
    Unload,
)
from tests.agents.rules.asking import ask, shape, traffic
from tests.fakes.fleets import NOW, fleet, loaded, model, policy


def test_the_sweep_unloads_models_that_idled_out() -> None:
    world = fleet(
        loaded("gone", "n/g0", idle_s=3601),
        loaded("edge", "n/g0", idle_s=3600),
        loaded("pin", "n/g1", idle_s=9999, pinned=True),
        loaded("used", "n/g1", traffic=Traffic(last_request_at=NOW - 3700, qps_last_hour=0.2)),
    )
    plan = ask(world, Trigger.SWEEP)
    assert shape(plan) == [("unload", "gone")]
    (unload,) = plan.actions
    assert isinstance(unload, Unload)
    assert unload.cause is EvictionCause.IDLE
    assert "idle for 3601 s (auto_unload_after_seconds is 3600)" in unload.reason


def test_upkeep_unloads_no_idle_model_but_relieves_pressure() -> None:
    world = fleet(
        loaded("idle", "n/g1", gib=10, idle_s=9999),
        loaded("model-a", "n/g0", gib=45, traffic=traffic(600, 0.0)),
        loaded("model-b", "n/g0", gib=30, traffic=traffic(30, 10.0)),
        foreign_gib=3,
    )
    assert ("unload", "idle") in shape(ask(world, Trigger.SWEEP))
    assert shape(ask(world, Trigger.UPKEEP)) == [("unload", "model-a")]


def test_flow_2_pressure_unloads_the_idle_one_of_the_three() -> None:
    world = fleet(
        loaded("model-a", "n/g0", gib=15, traffic=traffic(3600, 0.0)),
        loaded("model-b", "n/g0", gib=30, traffic=traffic(30, 10.0)),
        loaded("model-c", "n/g0", gib=28, traffic=traffic(10, 100.0)),
        foreign_gib=3,
        gpus=1,
    )
    plan = ask(world, Trigger.SWEEP)
    assert shape(plan) == [("unload", "model-a")]
    (unload,) = plan.actions
    assert isinstance(unload, Unload)
    assert unload.cause is EvictionCause.PRESSURE
    assert "n/g0 is 95% full (max_gpu_memory_utilization is 90%)" in unload.reason


def test_flow_3_five_new_models_on_two_gpus() -> None:
    state = ModelState.QUEUED
    by = policy(high_priority_teams=frozenset({"research"}))
    drops = [
        model("experiment-1", 60, state=state),
        model("production-1", 60, state=state, priority=Priority.HIGH),
        model("team-1", 60, state=state, team="research"),
        model("production-2", 60, state=state, priority=Priority.HIGH),
        model("experiment-2", 60, state=state),
    ]
    plan = ask(fleet(*drops), Trigger.SWEEP, by=by)
    assert {a.model for a in plan.actions} == {"production-1", "production-2"}
    # In a plan for several models, each candidate says for which.
    assert {c.model for c in plan.candidates if not c.lost} == {"production-1", "production-2"}
    assert {c.model for c in plan.candidates if c.lost} <= {drop.name for drop in drops}
    # A GPU comes free: the important team's model is next.
    rest = [drops[0], drops[2], drops[4], loaded("production-1", "n/g0", gib=60, pinned=True)]
    assert shape(ask(fleet(*rest), Trigger.SWEEP, by=by)) == [("load", "team-1")]


def test_memory_of_an_idle_model_is_used_in_the_same_plan() -> None:
    world = fleet(
        model("next", 60, state=ModelState.QUEUED),
        loaded("old", "n/g0", gib=60, idle_s=4000),
        gpus=1,
    )
    assert shape(ask(world, Trigger.SWEEP)) == [("unload", "old"), ("load", "next")]


def test_always_loaded_models_come_first() -> None:
    world = fleet(
        model("must", 60, state=ModelState.UNLOADED),
        model("other", 60, state=ModelState.QUEUED, priority=Priority.HIGH),
        loaded("x", "n/g0", gib=60),
        gpus=1,
    )
    plan = ask(world, Trigger.SWEEP, by=policy(always_loaded=frozenset({"must"})))
    assert shape(plan) == [("unload", "x"), ("load", "must")]


def test_a_starving_model_comes_first_and_may_evict() -> None:
    world = fleet(
        model("old", 60, state=ModelState.QUEUED, queued_at=NOW - 4000),
        model("new", 60, state=ModelState.QUEUED, queued_at=NOW - 5, priority=Priority.HIGH),
        loaded("x", "n/g0", gib=60),
        gpus=1,
    )
    assert shape(ask(world, Trigger.SWEEP)) == [("unload", "x"), ("load", "old")]


def test_only_one_starving_model_per_plan_may_evict() -> None:
    starving = [
        model(f"q{i}", 60, state=ModelState.QUEUED, queued_at=NOW - 4000 - i) for i in range(3)
    ]
    world = fleet(*starving, loaded("x", "n/g0", gib=60), loaded("y", "n/g1", gib=60))
    unloads = [a for a in ask(world, Trigger.SWEEP).actions if isinstance(a, Unload)]
    assert len(unloads) == 1


def test_a_smaller_queued_model_may_overtake_one_that_does_not_fit() -> None:
    world = fleet(
        model("big", 60, state=ModelState.QUEUED, priority=Priority.HIGH),
        model("small", 5, state=ModelState.QUEUED),
        loaded("x", "n/g0", gib=60, pinned=True),
        gpus=1,
    )
    assert shape(ask(world, Trigger.SWEEP)) == [("load", "small")]


def test_the_sweep_does_not_reload_evicted_models() -> None:
    world = fleet(model("a", state=ModelState.UNLOADED, evicted_at=NOW - 5000))
    assert ask(world, Trigger.SWEEP).actions == ()


def test_the_sweep_loads_models_with_waiting_requests() -> None:
    world = fleet(model("a", state=ModelState.UNLOADED, traffic=Traffic(pending=1)))
    assert shape(ask(world, Trigger.SWEEP)) == [("load", "a")]


def failing(**given: Any) -> Model:
    fields: dict[str, Any] = {"failures": 2, "retry_at": NOW - 1, "reason": "engine died"}
    return model("a", state=ModelState.FAILED, **{**fields, **given})


def test_the_sweep_tries_a_failed_load_again_after_its_pause() -> None:
    assert shape(ask(fleet(failing()), Trigger.UPKEEP)) == [("load", "a")]
    assert shape(ask(fleet(failing(retry_at=NOW + 1)), Trigger.UPKEEP)) == []


def test_nothing_but_an_operator_loads_a_quarantined_model() -> None:
    lonely = failing(failures=5, retry_at=None, traffic=Traffic(pending=3))
    by = policy(always_loaded=frozenset({"a"}))
    assert shape(ask(fleet(lonely), Trigger.SWEEP, by=by)) == []
    for trigger in (Trigger.DEMAND, Trigger.INGEST):
        assert shape(ask(fleet(lonely), trigger, "a")) == [("keep", "a")]
    assert shape(ask(fleet(lonely), Trigger.OPERATOR, "a")) == [("load", "a")]


@pytest.mark.parametrize(
    ("counts", "runtime"),
    [
        ({}, RuntimeName.VLLM),
        ({RuntimeName.VLLM: 1}, RuntimeName.VLLM),
        ({RuntimeName.VLLM: 2}, RuntimeName.RAY_SERVE),
        ({RuntimeName.VLLM: 2, RuntimeName.RAY_SERVE: 2}, RuntimeName.VLLM),
    ],
)
def test_a_runtime_that_failed_a_model_is_avoided_while_there_is_another(
    counts: dict[RuntimeName, int], runtime: RuntimeName
) -> None:
    (load,) = ask(fleet(failing(setbacks=Setbacks(runtimes=counts))), Trigger.SWEEP).loads
    assert load.runtime is runtime
    avoids = "not where it failed before (times): vllm (2)" in load.reason
    assert avoids == (runtime is RuntimeName.RAY_SERVE)


def test_a_preference_for_the_runtime_that_fails_is_not_followed() -> None:
    known = failing(
        setbacks=Setbacks(runtimes={RuntimeName.VLLM: 2}),
        preference=Preference(runtime=RuntimeName.VLLM),
    )
    (load,) = ask(fleet(known), Trigger.SWEEP).loads
    assert load.runtime is RuntimeName.RAY_SERVE
