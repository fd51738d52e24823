"""Which waiting models a sweep loads, in which order, and what makes room for them."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.errors import FailureKind
from modelium.lifecycle import ModelState
from modelium.models import (
    Fleet,
    Model,
    Plan,
    Priority,
    Queue,
    Removal,
    RuntimeName,
    RuntimeStatus,
    Setbacks,
    Traffic,
    Trigger,
)
from modelium.models.advice import RULES_ALONE, Advice
from modelium.policy import Policy, validate
from modelium.ports import Question
from tests.agents.rules.asking import PLANNER, shape, traffic
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile

S = ModelState
HIGH, MEDIUM, LOW = Priority.HIGH, Priority.MEDIUM, Priority.LOW


def sweep(world: Fleet, by: Policy | None = None, advice: Advice = RULES_ALONE) -> Plan:
    by = by or policy()
    plan = PLANNER.plan(Question(trigger=Trigger.SWEEP, now=NOW), world, by, advice)
    assert validate(plan, world, by, now=NOW) == []
    return plan


def queued(name: str, gib: float = 60, waited_s: float = 60, **given: Any) -> Model:
    return model(name, gib, **{"state": S.QUEUED, "queued_at": NOW - waited_s, **given})


ASKED = {"traffic": Traffic(pending=1)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"state": S.QUEUED}, ["a"]),
        ({"state": S.ANALYZED}, []),
        ({"state": S.ANALYZED, **ASKED}, ["a"]),
        ({"state": S.UNLOADED}, []),
        ({"state": S.UNLOADED, **ASKED}, ["a"]),
        ({"state": S.FAILED}, []),  # refused: nothing was tried
        ({"state": S.FAILED, **ASKED}, ["a"]),
        ({"state": S.FAILED, "failures": 1, "retry_at": NOW}, ["a"]),
        ({"state": S.FAILED, "failures": 1, "retry_at": NOW + 1}, []),
        ({"state": S.FAILED, "failures": 1, "retry_at": NOW + 1, **ASKED}, []),
        (
            {
                "state": S.FAILED,
                "failures": 1,
                "retry_at": NOW,
                "setbacks": Setbacks(kind=FailureKind.BAD_FILES),
            },
            [],
        ),
        ({"state": S.UNLOADED, "failures": 1, "retry_at": NOW}, []),
        ({"state": S.INGESTED, **ASKED}, []),
        ({"state": S.LOADING, **ASKED}, []),
        ({"state": S.QUEUED, "profile": None}, []),
        ({"state": S.QUEUED, "removal": Removal(by="ann", at=1)}, []),
        ({"state": S.QUEUED, "profile": profile(1, needs_remote_code=True)}, []),
        ({"state": S.QUEUED, "evicted_at": NOW - 30}, ["a"]),
        ({"state": S.QUEUED, "evicted_at": NOW - 29}, []),
        ({"state": S.QUEUED, "evicted_at": NOW - 29, **ASKED}, ["a"]),
    ],
)
def test_what_waits_or_is_asked_for_is_loaded(given: dict[str, Any], expected: list[str]) -> None:
    plan = sweep(fleet(model("a", 1, **given), queued("z", 1)))
    assert shape(plan) == [("load", name) for name in [*expected, "z"]]


def test_a_sleeping_model_wakes_only_when_it_is_asked_for() -> None:
    asleep = loaded("a", "n/g0", state=S.SLEEPING)
    assert sweep(fleet(asleep)).actions == ()
    assert shape(sweep(fleet(asleep.model_copy(update=ASKED)))) == [("load", "a")]


def test_more_requests_than_the_threshold_have_to_wait() -> None:
    by = policy(pending_requests_threshold=1)
    few, many = (model("a", traffic=Traffic(pending=n)) for n in (1, 2))
    assert sweep(fleet(few), by).actions == ()
    assert shape(sweep(fleet(many), by)) == [("load", "a")]


FULL = loaded("x", "n/g0", gib=70, pinned=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"state": S.QUEUED}, []),
        ({"state": S.ANALYZED, **ASKED}, [("queue", "a")]),
        ({"state": S.UNLOADED, **ASKED}, [("queue", "a")]),
        ({"state": S.FAILED, "failures": 1, "retry_at": NOW}, [("queue", "a")]),
    ],
)
def test_what_finds_no_room_is_queued_unless_it_is(
    given: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert shape(sweep(fleet(model("a", **given), FULL, gpus=1))) == expected


def test_a_sleeping_model_without_room_sleeps_on() -> None:
    asleep = loaded("a", "n/g0", state=S.SLEEPING, **ASKED)
    assert sweep(fleet(asleep, FULL, gpus=1)).actions == ()


def test_a_model_that_is_too_large_is_rejected_and_the_next_one_loaded() -> None:
    plan = sweep(fleet(queued("a", 90, priority=HIGH), queued("b", 1)))
    assert shape(plan) == [("reject", "a"), ("load", "b")]


def order(*models: Model, by: Policy | None = None, **advice: Any) -> list[str]:
    """Return the waiting models in the order in which they are loaded; there is room for all."""
    plan = sweep(fleet(*models, gpus=len(models)), by, Advice(**advice))
    return [action.model for action in plan.actions]


def test_waiting_models_are_loaded_by_urgency_class_value_and_waiting_time() -> None:
    models = [
        queued("low", priority=LOW),
        queued("older", waited_s=90),
        queued("valued", traffic=traffic(600, 0.001)),
        queued("medium", priority=MEDIUM),
        queued("high", priority=HIGH),
        queued("asked", **ASKED),
        queued("starving", waited_s=1800),
    ]
    expected = ["starving", "asked", "high", "medium", "valued", "older", "low"]
    assert order(*models) == order(*reversed(models)) == expected


def test_advice_orders_models_within_a_class_but_not_urgent_ones() -> None:
    models = [
        *(queued(name) for name in "abc"),
        queued("high", priority=HIGH),
        *(queued(name, **ASKED) for name in ("u1", "u2")),
    ]
    assert order(*models) == ["u1", "u2", "high", "a", "b", "c"]
    wished = ("u2", "c", "b", "high")
    assert order(*models, order=wished) == ["u1", "u2", "high", "c", "b", "a"]


def tried(subject: Model, *others: Model, gpus: int = 1, by: Policy | None = None) -> list[str]:
    return [u.model for u in sweep(fleet(subject, *others, gpus=gpus), by).unloads]


LONG = policy(auto_unload_after_s=100_000.0)
"""No model idles out."""


@pytest.mark.parametrize(
    ("own", "theirs", "yields"),
    [
        (HIGH, MEDIUM, True),
        (HIGH, LOW, True),
        (MEDIUM, LOW, True),
        (HIGH, HIGH, False),
        (MEDIUM, MEDIUM, False),
        (LOW, LOW, False),
        (LOW, MEDIUM, False),
        (MEDIUM, HIGH, False),
    ],
)
def test_a_queued_model_displaces_lower_classes_only(
    own: Priority, theirs: Priority, yields: bool
) -> None:
    subject, held = queued("a", priority=own), loaded("x", "n/g0", gib=60, priority=theirs)
    assert tried(subject, held, by=LONG) == (["x"] if yields else [])
    # A request displaces what is of least value, whatever its class.
    assert tried(queued("a", priority=own, **ASKED), held, by=LONG) == ["x"]


def test_a_queued_model_displaces_what_idled_out_even_where_the_sweep_may_not_unload_it() -> None:
    world = fleet(queued("a"), loaded("x", "n/g0", gib=60, idle_s=3601, priority=HIGH), gpus=1)
    for idle, expected in ((True, [("unload", "x"), ("load", "a")]), (False, [])):
        by = policy(auto_unload_after_s=3600.0 if idle else 3601.0)
        plan = PLANNER.plan(Question(trigger=Trigger.UPKEEP, now=NOW), world, by)
        assert shape(plan) == expected


def test_a_queued_model_displaces_only_those_of_lower_class() -> None:
    cheap = loaded("cheap", "n/g0", gib=60, priority=MEDIUM, traffic=traffic(3000, 0.0))
    dear = loaded("dear", "n/g1", gib=60, priority=LOW, traffic=traffic(5, 1.0))
    assert tried(queued("a", priority=MEDIUM), cheap, dear, gpus=2, by=LONG) == ["dear"]
    assert tried(queued("a", priority=HIGH), cheap, dear, gpus=2, by=LONG) == ["cheap"]


def test_a_starving_model_displaces_its_own_class_and_only_one_does_per_plan() -> None:
    held = [loaded(name, f"n/g{i}", gib=60) for i, name in enumerate("xy")]
    assert tried(queued("a", waited_s=1799), *held, gpus=2, by=LONG) == []
    assert tried(queued("a", waited_s=1800), *held, gpus=2, by=LONG) == ["x"]
    both = (queued("b", waited_s=1801), *held)
    assert tried(queued("a", waited_s=1800), *both, gpus=2, by=LONG) == ["x"]
    # The second one displaces lower classes as before.
    second = queued("a", waited_s=1800, priority=HIGH)
    first = queued("b", waited_s=3000, priority=HIGH)
    assert tried(second, first, *held, gpus=2, by=LONG) == ["x", "y"]


def test_a_starving_model_that_finds_no_room_does_not_keep_the_next_one_waiting() -> None:
    kept = loaded("kept", "n/g0", gib=40, pinned=True)
    idle = loaded("idle", "n/g0", gib=30)
    large, small = queued("large", 60, waited_s=9000), queued("small", 20, waited_s=1800)
    assert tried(large, small, kept, idle, by=LONG) == ["idle"]


def test_one_that_finds_no_room_does_not_end_the_queue() -> None:
    plan = sweep(
        fleet(
            queued("a", priority=HIGH, evicted_at=NOW - 1),
            queued("b", priority=HIGH),
            queued("c", 1),
            FULL,
            gpus=1,
        )
    )
    assert shape(plan) == [("load", "c")]


def test_what_an_earlier_step_decided_is_not_decided_again() -> None:
    by = policy(always_loaded=frozenset({"a"}))
    plan = sweep(fleet(model("a", **ASKED), FULL, gpus=1), by)
    assert [type(action) for action in plan.actions] == [Queue]


STARTS = RuntimeStatus(
    name=RuntimeName.VLLM, enabled=True, healthy=False, starting=True, detail="as usual"
)
STARTING = "waits for its runtime: vllm is starting (as usual)"


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        ({}, STARTING, None),
        (
            {"starting": False, "detail": "it hangs"},
            STARTING,
            "waits for its runtime: vllm does not answer (it hangs)",
        ),
        (
            {"starting": False, "healthy": True},
            STARTING,
            "no device has room now; models in memory: 1 pinned",
        ),
        ({"starting": False}, "waits for its runtime: vllm does not answer (else)", None),
    ],
)
def test_a_queued_model_waits_for_no_start_that_is_over(
    status: dict[str, Any], reason: str, expected: str | None
) -> None:
    world = fleet(
        queued("a", reason=reason), FULL, gpus=1, runtimes=(STARTS.model_copy(update=status),)
    )
    found = [(action.model, action.reason) for action in sweep(world).actions]
    assert found == ([("a", expected)] if expected else [])
