from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agents.rules.keep_value import keep_value
from agents.rules.planner import RulePlanner
from modelium import analysis
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    Device,
    Fleet,
    Footprint,
    Habit,
    Keep,
    Load,
    MeasuredLoad,
    Model,
    ModelFormat,
    Plan,
    Priority,
    Queue,
    Reject,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Task,
    Traffic,
    Trigger,
    Unload,
)
from modelium.policy import Policy, RuntimeRules, validate
from modelium.ports import Question
from modelium.traffic.daily_pattern import with_request
from tests.fakes.fleets import NOW, estimate, fleet, loaded, model, policy, profile

PLANNER = RulePlanner(estimate=estimate)


def ask(world: Fleet, trigger: Trigger, about: str | None = None, by: Policy | None = None) -> Plan:
    by = by or policy()
    plan = PLANNER.plan(Question(trigger=trigger, model=about, now=NOW), world, by)
    assert validate(plan, world, by, now=NOW) == []
    return plan


def shape(plan: Plan) -> list[tuple[str, str]]:
    return [(action.action, action.model) for action in plan.actions]


def traffic(idle_s: float, rate: float) -> Traffic:
    return Traffic(
        first_request_at=NOW - 90_000,
        last_request_at=NOW - idle_s,
        rates=(rate,) * 4,
        qps_last_hour=rate,
    )


async def test_the_event_loop_goes_on_while_it_plans() -> None:
    went_on = threading.Event()

    def slow(*given: Any, **more: Any) -> Footprint:
        assert went_on.wait(timeout=10)
        return estimate(*given, **more)

    asyncio.get_running_loop().call_soon(went_on.set)
    question = Question(trigger=Trigger.DEMAND, model="a", now=NOW)
    plan = await RulePlanner(estimate=slow).decide(question, fleet(model("a", 20)), policy())
    assert shape(plan) == [("load", "a")]


# --- placing --------------------------------------------------------------------------------


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


def test_a_small_model_fills_a_small_hole() -> None:
    world = fleet(model("a", 8), loaded("x", "n/g0", gib=60), loaded("y", "n/g1", gib=20))
    (load,) = ask(world, Trigger.INGEST, "a").actions
    assert isinstance(load, Load)
    assert load.devices == ("n/g0",)


def test_a_model_too_large_for_one_device_is_split() -> None:
    big = model("big", 100, profile=profile(100, tensor_parallel_degrees=(1, 2, 4)))
    (load,) = ask(fleet(big, gpus=4), Trigger.INGEST, "big").actions
    assert isinstance(load, Load)
    assert (len(load.devices), load.settings.tensor_parallel_size) == (2, 2)


def test_it_is_not_split_over_nodes_or_unlike_devices() -> None:
    big = model("big", 100, profile=profile(100, tensor_parallel_degrees=(1, 2)))
    world = fleet(big)
    far = world.devices[1].model_copy(update={"node": "other"})
    apart = Fleet.model_validate(
        world.model_copy(update={"devices": (world.devices[0], far)}).model_dump()
    )
    assert shape(ask(apart, Trigger.INGEST, "big")) == [("reject", "big")]


def test_settings_shrink_before_it_gives_up_and_the_reason_says_so() -> None:
    long = profile(40, kv_bytes_per_token=1 << 20, context_length=131_072)
    (load,) = ask(fleet(model("a", 40, profile=long)), Trigger.INGEST, "a").actions
    assert isinstance(load, Load)
    assert load.settings.max_model_len == 32_768
    assert "max_model_len 32768" in load.reason


def test_the_operators_default_settings_are_used_as_far_as_they_suit() -> None:
    rules = RuntimeRules(
        default_settings={
            "dtype": "float16",
            "max_model_len": 9999,
            "max_batch_size": 32,
            "seed": 1,
        }
    )
    by = policy(runtimes={RuntimeName.VLLM: rules})
    (load,) = ask(fleet(model("a")), Trigger.INGEST, "a", by).actions
    assert isinstance(load, Load)
    got = load.settings
    assert (got.dtype, got.max_model_len, got.max_num_seqs, got.extra) == (
        "float16",
        4096,
        32,
        {"seed": 1},
    )


@pytest.mark.parametrize(
    ("given", "runtime"),
    [
        ({"format": ModelFormat.GGUF}, RuntimeName.LLAMA_CPP),
        ({"format": ModelFormat.ONNX, "task": Task.GENERIC}, RuntimeName.TRITON),
        ({"task": Task.EMBEDDING}, RuntimeName.RAY_SERVE),
        ({}, RuntimeName.VLLM),
    ],
)
def test_each_format_goes_to_its_native_runtime(
    given: dict[str, Any], runtime: RuntimeName
) -> None:
    able = tuple(RuntimeSupport(runtime=r, supported=True) for r in RuntimeName)
    world = fleet(
        model("a", profile=profile(4, runtimes=able, **given)),
        runtimes=tuple(RuntimeStatus(name=r, enabled=True, healthy=True) for r in RuntimeName),
    )
    by = policy(runtimes={r: RuntimeRules() for r in RuntimeName})
    (load,) = ask(world, Trigger.INGEST, "a", by).actions
    assert isinstance(load, Load)
    assert load.runtime is runtime


def test_the_next_best_runtime_stands_in_for_a_silent_one() -> None:
    world = fleet(
        model("a"),
        runtimes=(
            RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=False),
            RuntimeStatus(name=RuntimeName.RAY_SERVE, enabled=True, healthy=True),
        ),
    )
    (load,) = ask(world, Trigger.INGEST, "a").actions
    assert isinstance(load, Load)
    assert load.runtime is RuntimeName.RAY_SERVE


def test_a_cpu_is_a_device_like_any_other() -> None:
    cpu = Device(node="n", uuid="cpu", kind="cpu", total_bytes=32 * GIB, free_bytes=30 * GIB)
    (load,) = ask(fleet(model("a", 4), devices=(cpu,)), Trigger.INGEST, "a").actions
    assert isinstance(load, Load)
    assert load.devices == ("n/cpu",)


def test_an_unhealthy_device_gets_nothing() -> None:
    world = fleet(model("a"), gpus=1)
    lost = world.devices[0].model_copy(update={"healthy": False, "detail": "GPU is lost"})
    broken = Fleet.model_validate(world.model_copy(update={"devices": (lost,)}).model_dump())
    assert shape(ask(broken, Trigger.DEMAND, "a")) == [("queue", "a")]


# --- turning down ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"runtimes": ()}, "no enabled runtime"),
        ({"weight_bytes": 500 * GIB}, "too large"),
        ({"needs_remote_code": True}, "modelium approve"),
    ],
)
def test_what_cannot_run_is_rejected_with_the_reason(given: dict[str, Any], says: str) -> None:
    world = fleet(model("a", profile=profile(10, **given)))
    (answer,) = ask(world, Trigger.INGEST, "a").actions
    assert isinstance(answer, Reject)
    assert says in answer.reason


def test_a_model_that_is_there_stays() -> None:
    world = fleet(loaded("a", "n/g0"))
    for trigger in (Trigger.INGEST, Trigger.DEMAND, Trigger.OPERATOR):
        assert shape(ask(world, trigger, "a")) == [("keep", "a")]


def test_its_folder_does_not_bring_an_evicted_model_back_but_a_request_does() -> None:
    world = fleet(model("a", state=ModelState.UNLOADED, evicted_at=NOW - 5))
    assert shape(ask(world, Trigger.INGEST, "a")) == [("keep", "a")]
    assert shape(ask(world, Trigger.DEMAND, "a")) == [("load", "a")]


def test_back_off_holds_requests_and_not_the_operator() -> None:
    world = fleet(model("a", state=ModelState.FAILED, failures=3, retry_at=NOW + 60))
    assert shape(ask(world, Trigger.DEMAND, "a")) == [("keep", "a")]
    assert shape(ask(world, Trigger.OPERATOR, "a")) == [("load", "a")]


def test_requests_up_to_the_threshold_load_nothing() -> None:
    by = policy(pending_requests_threshold=2)
    few = fleet(model("a", traffic=Traffic(pending=2)))
    many = fleet(model("a", traffic=Traffic(pending=3)))
    assert shape(ask(few, Trigger.DEMAND, "a", by)) == [("keep", "a")]
    assert shape(ask(many, Trigger.DEMAND, "a", by)) == [("load", "a")]


def test_orchestration_off_acts_on_nothing() -> None:
    world = fleet(model("a"), loaded("b", "n/g0", idle_s=9000))
    by = policy(enabled=False)
    assert shape(ask(world, Trigger.DEMAND, "a", by)) == [("keep", "a")]
    assert ask(world, Trigger.SWEEP, by=by).actions == ()


# --- swapping -------------------------------------------------------------------------------


def crowded(**given: Any) -> tuple[Model, Model]:
    return (
        loaded("rare", "n/g0", gib=60, traffic=traffic(3000, 0.0001), **given),
        loaded("hot", "n/g1", gib=60, traffic=traffic(5, 1.0), **given),
    )


def test_a_request_swaps_out_what_is_worth_least() -> None:
    plan = ask(fleet(model("a", 40), *crowded()), Trigger.DEMAND, "a")
    assert shape(plan) == [("unload", "rare"), ("load", "a")]


def test_a_drop_swaps_out_nothing_that_is_still_of_use() -> None:
    plan = ask(fleet(model("a", 40), *crowded()), Trigger.INGEST, "a")
    assert shape(plan) == [("queue", "a")]


def test_a_drop_may_take_the_place_of_what_idled_out() -> None:
    world = fleet(model("a", 60), loaded("old", "n/g0", gib=60, idle_s=4000), gpus=1)
    assert shape(ask(world, Trigger.INGEST, "a")) == [("unload", "old"), ("load", "a")]


@pytest.mark.parametrize(
    ("given", "by", "says"),
    [
        ({"pinned": True}, {}, "2 pinned"),
        ({}, {"always_loaded": frozenset({"rare", "hot"})}, "2 pinned"),
        ({}, {"enable_model_swapping": False}, "swapping is off"),
        ({}, {"min_residency_s": 1e6}, "too young"),
    ],
)
def test_when_nobody_may_leave_it_queues_and_says_why(
    given: dict[str, Any], by: dict[str, Any], says: str
) -> None:
    (answer,) = ask(
        fleet(model("a", 40), *crowded(**given)), Trigger.DEMAND, "a", policy(**by)
    ).actions
    assert isinstance(answer, Queue)
    assert says in answer.reason


def test_a_model_with_a_request_in_flight_is_never_swapped_out() -> None:
    busy = loaded("busy", "n/g0", gib=60, traffic=Traffic(in_flight=1))
    assert shape(ask(fleet(model("a", 40), busy, gpus=1), Trigger.DEMAND, "a")) == [("queue", "a")]


def test_nobody_is_evicted_for_a_load_that_does_not_fit_after_all() -> None:
    pinned = loaded("pin", "n/g0", gib=40, pinned=True)
    small = loaded("small", "n/g0", gib=20)
    world = fleet(model("a", 60), pinned, small, gpus=1)
    assert shape(ask(world, Trigger.DEMAND, "a")) == [("queue", "a")]


def test_no_more_leave_than_needed() -> None:
    world = fleet(
        model("a", 30),
        *[loaded(f"s{i}", "n/g0", gib=10, traffic=traffic(3000 + i, 0.0001)) for i in range(4)],
        loaded("big", "n/g0", gib=30, traffic=traffic(100, 0.01)),
        gpus=1,
    )
    unloads = [a for a in ask(world, Trigger.DEMAND, "a").actions if isinstance(a, Unload)]
    assert len(unloads) <= 3
    assert {a.model for a in unloads} <= {"s0", "s1", "s2", "s3"}


def test_a_large_model_leaves_rather_than_a_small_one_that_is_worth_somewhat_less() -> None:
    """What it leaves free serves the next load."""
    small = loaded("small", "n/g0", gib=24, traffic=traffic(900, 0.001))
    large = loaded("large", "n/g0", gib=46, traffic=traffic(400, 0.002))
    assert 1.3 < keep_value(large, now=NOW) / keep_value(small, now=NOW) < 1.6
    world = fleet(model("x", 20), small, large, gpus=1)
    assert shape(ask(world, Trigger.DEMAND, "x")) == [("unload", "large"), ("load", "x")]
    precious = loaded("large", "n/g0", gib=46, traffic=traffic(60, 0.02))
    world = fleet(model("x", 20), small, precious, gpus=1)
    assert shape(ask(world, Trigger.DEMAND, "x")) == [("unload", "small"), ("load", "x")]


def test_what_a_model_took_beyond_its_booking_comes_back_with_it() -> None:
    big = loaded("big", "n/g0", gib=16, traffic=traffic(400, 0.005))
    small = [loaded(n, "n/g0", gib=10, traffic=traffic(900, 0.001)) for n in "abc"]
    assert 1.8 < keep_value(big, now=NOW) / keep_value(small[0], now=NOW) < 3
    world = fleet(model("x", 40), big, *small, gpus=1, foreign_gib=14)
    took = [b.model_copy(update={"resident_bytes": 30 * GIB}) for b in world.bookings[:1]]
    world = world.model_copy(update={"bookings": (*took, *world.bookings[1:])})
    assert shape(ask(world, Trigger.DEMAND, "x")) == [("unload", "big"), ("load", "x")]


def test_a_higher_class_is_spared_for_a_lower_one() -> None:
    world = fleet(
        model("a", 40),
        loaded("high", "n/g0", gib=60, traffic=traffic(600, 0.001), priority=Priority.HIGH),
        loaded("low", "n/g1", gib=60, traffic=traffic(400, 0.002)),
    )
    assert shape(ask(world, Trigger.DEMAND, "a"))[0] == ("unload", "low")


def test_models_sleep_where_the_engine_can() -> None:
    able = (RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True, can_sleep=True),)
    world = fleet(model("a", 60), loaded("old", "n/g0", gib=60), gpus=1, runtimes=able)
    (first, _) = ask(world, Trigger.DEMAND, "a").actions
    assert isinstance(first, Unload)
    assert first.sleep


def test_a_sleeper_wakes_where_it_sleeps_evicting_there() -> None:
    world = fleet(
        loaded("a", "n/g1", gib=60, state=ModelState.SLEEPING),
        loaded("x", "n/g1", gib=60),
        gpus=2,
    )
    plan = ask(world, Trigger.DEMAND, "a")
    assert shape(plan) == [("unload", "x"), ("load", "a")]
    load = plan.actions[1]
    assert isinstance(load, Load)
    assert load.devices == ("n/g1",)


# --- the sweep ------------------------------------------------------------------------------


def test_the_sweep_unloads_as_the_seed_says() -> None:
    world = fleet(
        loaded("gone", "n/g0", idle_s=3601),
        loaded("edge", "n/g0", idle_s=3600),
        loaded("pin", "n/g1", idle_s=9999, pinned=True),
        loaded("used", "n/g1", traffic=Traffic(last_request_at=NOW - 3700, qps_last_hour=0.2)),
    )
    assert shape(ask(world, Trigger.SWEEP)) == [("unload", "gone")]


def test_flow_2_pressure_unloads_the_idle_one_of_the_three() -> None:
    world = fleet(
        loaded("model-a", "n/g0", gib=15, traffic=traffic(3600, 0.0)),
        loaded("model-b", "n/g0", gib=30, traffic=traffic(30, 10.0)),
        loaded("model-c", "n/g0", gib=28, traffic=traffic(10, 100.0)),
        foreign_gib=3,
        gpus=1,
    )
    assert shape(ask(world, Trigger.SWEEP)) == [("unload", "model-a")]


def test_flow_3_five_drops_two_gpus() -> None:
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
    # A GPU comes free: the important team's model is next.
    rest = [drops[0], drops[2], drops[4], loaded("production-1", "n/g0", gib=60, pinned=True)]
    assert shape(ask(fleet(*rest), Trigger.SWEEP, by=by)) == [("load", "team-1")]


def test_flow_3_decided_one_by_one_keeps_the_places_of_the_important() -> None:
    drops = [
        model("experiment", 60),
        model("production-1", 60, priority=Priority.HIGH),
        model("production-2", 60, priority=Priority.HIGH),
    ]
    world = fleet(*drops)
    assert shape(ask(world, Trigger.INGEST, "experiment")) == [("queue", "experiment")]
    assert shape(ask(world, Trigger.INGEST, "production-1")) == [("load", "production-1")]


def test_flow_3_who_came_too_early_and_served_nobody_goes_back_to_the_queue() -> None:
    early = loaded("experiment-1", "n/g0", gib=60, traffic=Traffic())
    used = loaded("experiment-2", "n/g1", gib=60)
    important = [
        model(f"production-{n}", 60, state=ModelState.QUEUED, priority=Priority.HIGH)
        for n in (1, 2)
    ]
    by = policy(auto_unload_after_s=100_000.0)  # none of them idled out
    plan = ask(fleet(early, used, *important), Trigger.SWEEP, by=by)
    leaving = {a.model: a.requeue for a in plan.actions if isinstance(a, Unload)}
    assert leaving == {"experiment-1": True, "experiment-2": False}


def test_space_that_an_idle_model_leaves_is_used_in_the_same_plan() -> None:
    world = fleet(
        model("next", 60, state=ModelState.QUEUED),
        loaded("old", "n/g0", gib=60, idle_s=4000),
        gpus=1,
    )
    assert shape(ask(world, Trigger.SWEEP)) == [("unload", "old"), ("load", "next")]


def test_always_loaded_has_the_first_claim() -> None:
    world = fleet(
        model("must", 60, state=ModelState.UNLOADED),
        model("other", 60, state=ModelState.QUEUED, priority=Priority.HIGH),
        loaded("x", "n/g0", gib=60),
        gpus=1,
    )
    plan = ask(world, Trigger.SWEEP, by=policy(always_loaded=frozenset({"must"})))
    assert shape(plan) == [("unload", "x"), ("load", "must")]


def test_who_waited_too_long_goes_first_and_may_swap() -> None:
    world = fleet(
        model("old", 60, state=ModelState.QUEUED, queued_at=NOW - 4000),
        model("new", 60, state=ModelState.QUEUED, queued_at=NOW - 5, priority=Priority.HIGH),
        loaded("x", "n/g0", gib=60),
        gpus=1,
    )
    assert shape(ask(world, Trigger.SWEEP)) == [("unload", "x"), ("load", "old")]


def test_a_long_queue_does_not_sweep_the_devices_clean() -> None:
    starving = [
        model(f"q{i}", 60, state=ModelState.QUEUED, queued_at=NOW - 4000 - i) for i in range(3)
    ]
    world = fleet(*starving, loaded("x", "n/g0", gib=60), loaded("y", "n/g1", gib=60))
    unloads = [a for a in ask(world, Trigger.SWEEP).actions if isinstance(a, Unload)]
    assert len(unloads) == 1


def test_a_smaller_model_fills_the_hole_that_the_first_in_line_cannot() -> None:
    world = fleet(
        model("big", 60, state=ModelState.QUEUED, priority=Priority.HIGH),
        model("small", 5, state=ModelState.QUEUED),
        loaded("x", "n/g0", gib=60, pinned=True),
        gpus=1,
    )
    assert shape(ask(world, Trigger.SWEEP)) == [("load", "small")]


def test_the_sweep_brings_no_evicted_model_back_by_itself() -> None:
    world = fleet(model("a", state=ModelState.UNLOADED, evicted_at=NOW - 5000))
    assert ask(world, Trigger.SWEEP).actions == ()


def test_waiting_requests_are_served_by_the_sweep_too() -> None:
    world = fleet(model("a", state=ModelState.UNLOADED, traffic=Traffic(pending=1)))
    assert shape(ask(world, Trigger.SWEEP)) == [("load", "a")]


def why_loaded_ahead(seen: Traffic) -> str:
    """The reason of the sweep that loads a model with this traffic, where there is room alone."""
    soon = model("soon", state=ModelState.UNLOADED, traffic=seen)
    (load,) = ask(fleet(soon), Trigger.SWEEP).actions
    assert isinstance(load, Load)
    full = loaded("x", "n/g0", gib=65)
    assert ask(fleet(soon, full, gpus=1), Trigger.SWEEP).actions == ()
    return load.reason


def test_a_timer_driven_model_is_prewarmed_when_there_is_room_and_the_plan_says_so() -> None:
    every_20_minutes = Traffic(
        first_request_at=NOW - 86_400,
        last_request_at=NOW - 1100,
        rates=(0.0, 0.0, 0.0005, 0.0008),
        intervals=(0,) * 10 + (70,) + (0,) * 5,
    )
    assert "prewarm" in why_loaded_ahead(every_20_minutes)


def test_what_is_asked_every_day_at_this_time_is_prewarmed_and_the_plan_says_so() -> None:
    habit = Habit()
    for days in (4, 3, 2, 1):
        habit = with_request(habit, NOW + 30 - days * 86_400)
    daily = Traffic(
        first_request_at=NOW + 30 - 4 * 86_400,
        last_request_at=NOW + 30 - 86_400,
        rates=(0.0,) * 4,
        habit=habit,
    )
    why = why_loaded_ahead(daily)
    assert "prewarmed: requests began at this time on 4 of the last 4 days" in why


def test_promised_memory_is_not_used_before_its_release_is_verified() -> None:
    leaving = Booking(
        model="gone", device="n/g0", bytes=60 * GIB, resident_bytes=60 * GIB, releasing=True
    )
    gone = loaded("gone", "n/g0", gib=60, state=ModelState.UNLOADING)
    world = fleet(model("a", 40), gone, gpus=1, bookings=(leaving,))
    assert shape(ask(world, Trigger.DEMAND, "a")) == [("queue", "a")]


def test_an_unknown_model_gets_an_empty_plan_with_the_reason() -> None:
    plan = ask(fleet(), Trigger.DEMAND, "ghost")
    assert plan.actions == () and "ghost" in plan.reason


def test_an_unanalyzed_model_is_left_alone() -> None:
    world = fleet(model("a", state=ModelState.INGESTED, profile=None))
    (answer,) = ask(world, Trigger.DEMAND, "a").actions
    assert isinstance(answer, Keep)


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_what_the_model_really_took_stands_in_for_the_estimate(kind: str) -> None:
    device = Device(
        node="n", uuid="d", kind=kind, name="Some 1", total_bytes=64 * GIB, free_bytes=60 * GIB
    )
    bare = model("a", 4, profile=profile(4, context_length=512))
    world = fleet(bare, devices=(device,))
    planner = RulePlanner()
    question = Question(trigger=Trigger.DEMAND, model="a", now=NOW)
    (first,) = planner.plan(question, world, policy()).actions
    assert isinstance(first, Load)
    took = MeasuredLoad(
        runtime=first.runtime,
        device_kind="Some 1",
        settings_digest=analysis.settings_digest(first.settings),
        per_device_bytes=17 * GIB,
        load_s=9.0,
        at=NOW - 500,
    )
    learned = fleet(bare.model_copy(update={"measured": (took,)}), devices=(device,))
    (second,) = planner.plan(question, learned, policy()).actions
    assert isinstance(second, Load)
    assert first.reserve["n/d"] < 17 * GIB <= second.reserve["n/d"] < 20 * GIB
