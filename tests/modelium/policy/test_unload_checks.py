from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    Deployment,
    LoadSettings,
    Model,
    RuntimeName,
    RuntimeStatus,
    Traffic,
    Trigger,
)
from tests.fakes.fleets import NOW, fleet, loaded, policy
from tests.modelium.policy.plans import broken, messages, unload


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"pinned": True}, "pinned"),
        ({"traffic": Traffic(in_flight=1)}, "in-flight"),
        ({"traffic": Traffic(pending=1)}, "in-flight"),
        ({"state": ModelState.UNLOADED, "deployment": None}, "illegal-state"),
        ({"state": ModelState.DRAINING}, "illegal-state"),
    ],
)
def test_unload_breaks_a_rule(given: dict[str, Any], rule: str) -> None:
    assert broken(fleet(loaded("a", "n/g0", **given)), unload("a")) == [rule]


def young(name: str, **given: Any) -> Model:
    return loaded(
        name,
        "n/g0",
        deployment=Deployment(
            model=name,
            version=1,
            runtime=RuntimeName.VLLM,
            devices=("n/g0",),
            settings=LoadSettings(),
            started_at=NOW - 40,
            ready_at=NOW - 10,
        ),
        **given,
    )


def test_a_model_stays_for_its_minimum_residency() -> None:
    assert broken(fleet(young("a")), unload("a")) == ["too-young"]


def test_operator_may_unload_a_busy_young_model_but_not_a_pinned_one() -> None:
    asked = {"trigger": Trigger.OPERATOR, "subject": "a"}
    busy = young("a", traffic=Traffic(in_flight=1))
    assert broken(fleet(busy), unload("a"), **asked) == []  # type: ignore[arg-type]
    pinned = young("a", pinned=True)
    assert broken(fleet(pinned), unload("a"), **asked) == ["pinned"]  # type: ignore[arg-type]


def test_always_loaded_is_a_pin() -> None:
    by = policy(always_loaded=frozenset({"a"}))
    assert broken(fleet(loaded("a", "n/g0")), unload("a"), by=by) == ["pinned"]


def test_a_pin_message_says_how_to_lift_it() -> None:
    by = policy(always_loaded=frozenset({"b"}))
    world = fleet(
        loaded("a", "n/g0", pinned=True),
        loaded("b", "n/g1"),
        loaded("c", "n/g0", pinned=True, twin_of="a"),
        loaded("d", "n/g1", twin_of="b"),
    )
    assert messages(world, *map(unload, "abcd"), by=by) == [
        "a: it is pinned; run `modelium pin a --off` first",
        "b: it is in always_loaded; remove it there first",
        "c: it is pinned; run `modelium pin c --off` first",
        "d: b is being switched to or from it",
    ]


def test_one_device_over_its_cap_lets_a_model_that_spans_two_leave() -> None:
    spans = loaded("a", "n/g0", "n/g1", gib=10)
    world = fleet(spans, loaded("b", "n/g0", gib=70), gpus=2)
    assert broken(world, unload("a"), by=policy(enable_model_swapping=False)) == []


def test_without_swapping_only_idle_models_are_unloaded() -> None:
    by = policy(enable_model_swapping=False)
    assert broken(fleet(loaded("a", "n/g0")), unload("a"), by=by) == ["swap-disabled"]
    assert broken(fleet(loaded("a", "n/g0", idle_s=4000)), unload("a"), by=by) == []


def test_models_on_a_device_over_its_cap_are_unloaded_without_swapping() -> None:
    world = fleet(loaded("a", "n/g0", gib=60), foreign_gib=15)
    by = policy(enable_model_swapping=False)
    assert broken(world, unload("a"), by=by) == []


def test_sleep_needs_an_engine_that_can() -> None:
    assert broken(fleet(loaded("a", "n/g0")), unload("a", sleep=True)) == ["sleep"]
    able = (RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True, can_sleep=True),)
    assert broken(fleet(loaded("a", "n/g0"), runtimes=able), unload("a", sleep=True)) == []


def test_messages_state_the_numbers() -> None:
    busy = young("a", traffic=Traffic(in_flight=2, pending=1, qps_last_hour=0.5))
    by = policy(enable_model_swapping=False)
    assert messages(fleet(busy), unload("a"), by=by) == [
        "a: 2 requests are in flight and 1 are waiting; only an idle model can be unloaded",
        "a: became ready 10 s ago; min_residency_seconds is 60",
        "a: enable_model_swapping is false, so it can only be unloaded for idling: idle for 0 s, "
        "auto_unload_after_seconds is 3600; 0.5 requests/s in the last hour, min_qps_threshold "
        "is 0.1",
    ]
