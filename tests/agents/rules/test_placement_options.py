"""Which of a model's options is taken, and what is recorded of those that lost."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.placement_search import CANDIDATES_KEPT
from agents.rules.planner import RulePlanner
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Candidate,
    Fleet,
    Footprint,
    Load,
    LoadSettings,
    Model,
    Plan,
    Preference,
    Queue,
    RuntimeName,
    RuntimeStatus,
    Traffic,
    Trigger,
)
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Question
from tests.agents.rules.asking import ask, crowded, shape, traffic
from tests.fakes.fleets import NOW, estimate, fleet, loaded, model, policy, profile

V, RAY = RuntimeName.VLLM, RuntimeName.RAY_SERVE
NO_ROOM = "no device has that much free memory"
TOO_LITTLE = "evicting all that may be evicted does not free that much"
DEARER = "another option's evictions cost less"


def lost(runtime: RuntimeName, why: str, gib: float = 40, *devices: str, **given: Any) -> Candidate:
    fields = {"devices": devices or ("n/g0", "n/g1"), **given}
    text = f"{gib:.2f} GiB per device: {why}"
    return Candidate(model="a", runtime=runtime, lost=text, **fields)


def load_of(plan: Plan) -> Load:
    (found,) = plan.loads
    return found


def preferring(runtime: RuntimeName | None, gib: float = 40, **given: Any) -> Model:
    settings = LoadSettings(**given)
    return model("a", gib, preference=Preference(runtime=runtime, settings=settings))


def test_the_options_that_lost_are_recorded_before_the_winner() -> None:
    plan = ask(fleet(model("a", 40), *crowded()), Trigger.DEMAND, "a")
    rare = ("rare",)
    winner = plan.candidates[-1]
    assert winner.score is not None and winner.score < 0
    assert plan.candidates == (
        lost(V, NO_ROOM),
        lost(RAY, NO_ROOM),
        lost(RAY, DEARER, 40, "n/g0", evicts=rare, score=winner.score),
        Candidate(model="a", runtime=V, devices=("n/g0",), evicts=rare, score=winner.score),
    )


def test_options_without_room_even_with_evictions_say_so() -> None:
    plan = ask(fleet(model("a", 40), *crowded(pinned=True)), Trigger.DEMAND, "a")
    assert plan.candidates == (
        lost(V, NO_ROOM), lost(RAY, NO_ROOM), lost(V, TOO_LITTLE), lost(RAY, TOO_LITTLE),
    )  # fmt: skip


def test_a_load_into_free_memory_records_itself() -> None:
    plan = ask(fleet(model("a", 40)), Trigger.DEMAND, "a")
    assert plan.candidates == (Candidate(model="a", runtime=V, devices=("n/g0",), score=0.0),)


def test_a_long_search_records_a_number_of_losing_options() -> None:
    long = profile(40, kv_bytes_per_token=1024, context_length=2**24)
    world = fleet(model("a", profile=long), *crowded(pinned=True))
    plan = ask(world, Trigger.DEMAND, "a", policy(max_model_len_floor=1))
    assert len(plan.candidates) == CANDIDATES_KEPT


def test_the_tightest_of_alike_options_is_taken_whatever_the_order_of_the_cards() -> None:
    (large,) = fleet(gpus=1, gib=80).devices
    (small,) = fleet(gpus=1, gib=40).devices
    small = small.model_copy(update={"uuid": "small", "name": "A100"})
    for degrees in ((1,), (1, 2)):
        subject = model("a", profile=profile(10, tensor_parallel_degrees=degrees))
        for devices in ((large, small), (small, large)):
            load = load_of(ask(fleet(subject, devices=devices), Trigger.DEMAND, "a"))
            assert load.devices == ("n/small",)
    both = fleet(gpus=2).devices
    twins = (both[0], both[1].model_copy(update={"name": "A100"}))
    assert load_of(ask(fleet(model("a"), devices=twins), Trigger.DEMAND, "a")).devices == ("n/g0",)


def test_a_split_is_no_alternative_to_one_device_nor_another_runtime_to_the_first() -> None:
    """Although they would leave less free."""
    subject = model("a", profile=profile(40, tensor_parallel_degrees=(1, 2)))
    tight = [loaded(f"m{i}", f"n/g{i}", gib=45) for i in (1, 2)]
    load = load_of(ask(fleet(subject, *tight, gpus=3), Trigger.DEMAND, "a"))
    assert (load.runtime, load.devices) == (V, ("n/g0",))


def test_the_largest_settings_that_fit_are_taken() -> None:
    long = profile(40, kv_bytes_per_token=1 << 20, context_length=131_072)
    plan = ask(fleet(model("a", profile=long)), Trigger.INGEST, "a")
    assert load_of(plan).settings.max_model_len == 32_768
    assert plan.candidates[-1].devices == ("n/g0",)


def test_a_preference_is_taken_in_free_memory() -> None:
    plan = ask(fleet(preferring(RAY)), Trigger.DEMAND, "a")
    assert load_of(plan).runtime is RAY
    assert plan.candidates == (Candidate(model="a", runtime=RAY, devices=("n/g0",), score=0.0),)


def test_a_preference_is_taken_with_evictions_that_cost_no_more() -> None:
    world = fleet(preferring(RAY), *crowded())
    plan = ask(world, Trigger.DEMAND, "a")
    assert shape(plan) == [("unload", "rare"), ("load", "a")]
    assert load_of(plan).runtime is RAY


def test_a_preference_that_costs_more_evictions_is_not_followed() -> None:
    small = loaded("small", "n/g0", gib=30, traffic=traffic(3000, 0.0001))
    others = [loaded(n, "n/g0", gib=20, traffic=traffic(100, 1.0)) for n in ("x", "y")]
    long = profile(10, kv_bytes_per_token=1 << 20, context_length=65_536)
    wished = Preference(runtime=V, settings=LoadSettings(max_model_len=51_200))
    by = policy(
        runtimes={V: RuntimeRules(default_settings={"max_model_len": 16_384})},
        max_gpu_memory_utilization=1.0,
        kv_cache_share=0.0,
    )
    world = fleet(model("a", profile=long, preference=wished), small, *others, gpus=1)
    plan = ask(world, Trigger.DEMAND, "a", by)
    assert shape(plan) == [("unload", "small"), ("load", "a")]
    assert load_of(plan).settings.max_model_len == 16_384


def test_free_memory_is_preferred_to_evictions_for_a_preference() -> None:
    """Even where they cost nothing."""
    unused = loaded("unused", "n/g0", gib=60, traffic=Traffic())
    long = profile(10, kv_bytes_per_token=1 << 20, context_length=51_200)
    small = policy(
        runtimes={V: RuntimeRules(default_settings={"max_model_len": 2048})}, kv_cache_share=0.0
    )
    wished = Preference(runtime=V, settings=LoadSettings(max_model_len=51_200))
    subject = model("a", profile=long, preference=wished)
    plan = ask(fleet(subject, unused, gpus=1), Trigger.DEMAND, "a", small)
    assert shape(plan) == [("load", "a")]
    assert load_of(plan).settings.max_model_len == 2048


def test_a_preference_for_a_runtime_that_does_not_answer_is_not_followed() -> None:
    runtimes = (
        RuntimeStatus(name=V, enabled=True, healthy=True),
        RuntimeStatus(name=RAY, enabled=True, healthy=False),
    )
    plan = ask(fleet(preferring(RAY), runtimes=runtimes), Trigger.DEMAND, "a")
    assert load_of(plan).runtime is V


def asleep(*devices: str, gib: float = 20, **given: Any) -> Model:
    subject = loaded("a", *devices, gib=gib, state=ModelState.SLEEPING, **given)
    assert subject.deployment is not None
    own = subject.deployment.settings.model_copy(update={"max_model_len": 77})
    return subject.model_copy(
        update={"deployment": subject.deployment.model_copy(update={"settings": own})}
    )


@pytest.mark.parametrize("wished", [None, Preference(runtime=RAY)])
def test_a_sleeping_model_wakes_as_it_was(wished: Preference | None) -> None:
    world = fleet(asleep("n/g1", preference=wished), loaded("x", "n/g0", gib=30))
    load = load_of(ask(world, Trigger.DEMAND, "a"))
    expected = LoadSettings(max_model_len=77)
    assert (load.runtime, load.devices, load.settings) == (V, ("n/g1",), expected)
    assert load.reserve == {"n/g1": 20 * GIB}


def test_a_split_model_wakes_on_its_devices_in_their_order() -> None:
    split = profile(40, tensor_parallel_degrees=(1, 2, 4))
    subject = asleep("n/g2", "n/g1", profile=split)
    world = fleet(subject, loaded("x", "n/g1", gib=30), gpus=4)
    load = load_of(ask(world, Trigger.DEMAND, "a"))
    assert load.devices == ("n/g2", "n/g1")
    assert load.reserve == {"n/g2": 20 * GIB, "n/g1": 20 * GIB}
    assert load.settings.max_model_len == 77


def test_a_sleeping_model_waits_where_its_devices_are_gone_or_full() -> None:
    full = loaded("x", "n/g1", gib=70, pinned=True)
    assert shape(ask(fleet(asleep("n/g1"), full), Trigger.DEMAND, "a")) == [("keep", "a")]
    gone = asleep("n/g1")
    world = fleet(gone).model_copy(update={"devices": fleet(gpus=1).devices})
    plan = ask(world, Trigger.DEMAND, "a")
    assert (shape(plan), plan.candidates) == ([("keep", "a")], ())


def needs_smaller(given: Any, **settings: Any) -> Footprint:
    """Fits with a shortened context alone."""
    found = estimate(given, **settings)
    times = 1 if settings.get("max_model_len") else 100
    return found.model_copy(update={"reserve": found.reserve * times})


def plan_with(needs: Any, world: Fleet, by: Policy | None = None) -> Plan:
    question = Question(trigger=Trigger.OPERATOR, model="a", now=NOW)
    return RulePlanner(estimate=needs).plan(question, world, by or policy())


def test_a_model_is_too_large_only_where_no_settings_fit_an_empty_device() -> None:
    short = profile(40, kv_bytes_per_token=1)
    full = loaded("x", "n/g0", gib=70, pinned=True)
    queued = plan_with(needs_smaller, fleet(model("a", profile=short), full, gpus=1))
    assert [type(action) for action in queued.actions] == [Queue]
    queued = plan_with(estimate, fleet(model("a", 40), full, gpus=1))
    assert [type(action) for action in queued.actions] == [Queue]
    rejected = plan_with(estimate, fleet(model("a", 81), full, gpus=1))
    assert shape(rejected) == [("reject", "a")]


def test_the_runtime_whose_evictions_cost_less_is_taken() -> None:
    def needs(given: Any, *, runtime: RuntimeName, **settings: Any) -> Footprint:
        found = estimate(given, **settings)
        return found.model_copy(update={"reserve": (60 if runtime is V else 30) * GIB})

    held = [loaded(name, "n/g0", gib=30, traffic=traffic(900, 0.001)) for name in ("x", "y")]
    plan = plan_with(needs, fleet(model("a"), *held, gpus=1))
    assert shape(plan) == [("unload", "x"), ("load", "a")]
    assert load_of(plan).runtime is RAY


def test_a_sleeping_model_of_which_nothing_is_known_is_loaded_afresh() -> None:
    plan = plan_with(estimate, fleet(model("a", state=ModelState.SLEEPING)))
    assert load_of(plan).devices == ("n/g0",)
