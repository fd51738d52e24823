"""What a sweep unloads, and what it keeps loaded: idling, pressure, always_loaded."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.reasons import DISABLED
from agents.rules.sweep import plan_sweep
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    EvictionCause,
    Keep,
    Model,
    Plan,
    Removal,
    RuntimeName,
    RuntimeStatus,
    Traffic,
    Trigger,
    Unload,
)
from modelium.policy import Policy
from modelium.ports import Question
from tests.agents.rules.asking import PLANNER, ask, shape, traffic
from tests.agents.rules.building import builder
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile

S = ModelState
V, RAY = RuntimeName.VLLM, RuntimeName.RAY_SERVE
OFF = (
    RuntimeStatus(name=V, enabled=False, healthy=True),
    RuntimeStatus(name=RAY, enabled=True, healthy=True),
)


def test_a_service_that_only_observes_says_so_and_does_nothing() -> None:
    world = fleet(loaded("a", "n/g0", idle_s=9000), model("b", state=S.QUEUED))
    plan = ask(world, Trigger.SWEEP, by=policy(enabled=False))
    assert plan == Plan(author="rules", trigger=Trigger.SWEEP, reason=DISABLED, revision=7)


@pytest.mark.parametrize(
    ("trigger", "unload_idle", "unloads"),
    [
        (Trigger.SWEEP, True, ["idle"]),
        (Trigger.REVIEW, True, ["idle"]),
        (Trigger.SWEEP, False, []),
        (Trigger.UPKEEP, True, []),
    ],
)
def test_idle_models_are_unloaded_where_the_question_allows_it(
    trigger: Trigger, unload_idle: bool, unloads: list[str]
) -> None:
    world = fleet(loaded("idle", "n/g0", idle_s=9000), loaded("used", "n/g0"))
    question = Question(trigger=trigger, now=NOW, unload_idle=unload_idle)
    plan = PLANNER.plan(question, world, policy())
    assert [u.model for u in plan.unloads] == unloads


def test_an_idle_model_reads_how_long_it_idled_and_what_the_limits_are() -> None:
    seen = Traffic(last_request_at=NOW - 100.4, qps_last_hour=0.01234)
    by = policy(auto_unload_after_s=90.5, min_qps_threshold=0.25)
    world = fleet(loaded("a", "n/g0", traffic=seen), loaded("b", "n/g1", traffic=seen))
    assert ask(world, Trigger.SWEEP, by=by).actions == tuple(
        Unload(
            model=name,
            cause=EvictionCause.IDLE,
            reason="idle for 100 s (auto_unload_after_seconds is 90.5) with 0.0123 requests/s in "
            "the last hour (min_qps_threshold is 0.25)",
        )
        for name in ("a", "b")
    )


def test_an_idle_model_of_a_disabled_runtime_stays() -> None:
    world = fleet(loaded("a", "n/g0", idle_s=9000), runtimes=OFF)
    assert ask(world, Trigger.SWEEP).actions == ()


# --- pressure -----------------------------------------------------------------------------

THREE_QUARTERS = policy(max_gpu_memory_utilization=0.75)
"""60 of a card's 80 GiB."""


def relieved(*models: Model, by: Policy = THREE_QUARTERS, **given: Any) -> list[str]:
    """Return what pressure unloads; models are worth less in the order of their names."""
    names = sorted(each.name for each in models)
    values = {name: float(place + 1) for place, name in enumerate(names)}
    some = builder(fleet(*models, **{"gpus": 1, **given}), by, values=values)
    plan_sweep(some)
    found = some.plan().unloads
    assert {unload.cause for unload in found} <= {EvictionCause.PRESSURE}
    return [unload.model for unload in found]


def held(name: str, gib: float, **given: Any) -> Booking:
    size = int(gib * GIB)
    return Booking(**{"model": name, "device": "n/g0", "bytes": size, "resident_bytes": size, **given})  # fmt: skip


@pytest.mark.parametrize(
    ("foreign_gib", "unloads"),
    [(30, []), (31, ["a"]), (40, ["a"]), (41, ["a", "b"]), (50, ["a", "b"])],
)
def test_the_least_valuable_are_unloaded_until_the_use_is_within_the_share(
    foreign_gib: float, unloads: list[str]
) -> None:
    models = [loaded(name, "n/g0") for name in "cba"]
    assert relieved(*models, foreign_gib=foreign_gib) == unloads


def test_value_counts_per_byte() -> None:
    small, large = loaded("a", "n/g0", gib=10), loaded("b", "n/g0", gib=40)
    assert relieved(small, large, foreign_gib=20) == ["b"]


def test_only_full_devices_are_relieved() -> None:
    low, high = loaded("a", "n/g0"), loaded("b", "n/g1", gib=65)
    assert relieved(low, high, gpus=2) == ["b"]
    assert relieved(loaded("a", "n/g1"), loaded("b", "n/g0", gib=65), gpus=2) == ["b"]


def test_a_byte_beyond_the_share_is_too_much_and_a_lost_device_is_not_relieved() -> None:
    subject = loaded("a", "n/g0")
    assert relieved(subject, foreign_gib=50) == []
    assert relieved(subject, foreign_gib=50 + 1 / GIB) == ["a"]
    lost = fleet(subject, gpus=1, foreign_gib=60).devices[0]
    lost = lost.model_copy(update={"healthy": False})
    assert relieved(subject, devices=(lost,)) == []


def test_a_split_model_relieves_its_devices_together() -> None:
    wide = loaded("a", "n/g0", "n/g1", gib=70)
    others = [loaded("b", "n/g0", gib=30), loaded("c", "n/g1", gib=30)]
    assert relieved(wide, *others, gpus=2) == ["a"]


def test_what_is_leaving_already_counts_as_gone() -> None:
    idle = loaded("a", "n/g0", gib=15, idle_s=9000)
    used = loaded("b", "n/g0", gib=15)
    world = fleet(idle, used, gpus=1, foreign_gib=45)
    assert shape(ask(world, Trigger.SWEEP, by=THREE_QUARTERS)) == [("unload", "a")]
    fuller = fleet(idle, used, gpus=1, foreign_gib=46)
    assert [u.model for u in ask(fuller, Trigger.SWEEP, by=THREE_QUARTERS).unloads] == ["a", "b"]


def test_what_is_being_released_counts_as_gone_and_is_not_unloaded_again() -> None:
    going, used = loaded("a", "n/g0", gib=15), loaded("b", "n/g0", gib=15)
    bookings = (held("a", 15, releasing=True), held("b", 15))
    assert relieved(going, used, foreign_gib=45, bookings=bookings) == []
    assert relieved(going, used, foreign_gib=46, bookings=bookings) == ["b"]


def test_what_holds_nothing_is_not_unloaded_and_what_is_held_counts() -> None:
    models = [loaded(name, "n/g0") for name in "abcd"]
    bookings = (
        held("a", 10, resident_bytes=0),
        held("b", 10, resident_bytes=1),
        held("c", 10, resident_bytes=None),
        held("d", 10),
        held("ghost", 10),
    )
    assert relieved(*models, foreign_gib=21, bookings=bookings) == ["c"]
    assert relieved(*models, foreign_gib=31, bookings=bookings) == ["c", "d"]
    lower = policy(max_gpu_memory_utilization=0.7)
    found = relieved(*models, by=lower, foreign_gib=40, bookings=bookings)
    assert found == ["c", "d", "b"]


@pytest.mark.parametrize(
    ("given", "may"),
    [
        ({}, True),
        ({"state": S.DRAINING}, False),
        ({"traffic": Traffic(in_flight=1)}, False),
        ({"traffic": Traffic(pending=1)}, False),
        ({"pinned": True}, False),
        # Neither the minimum residency nor enable_model_swapping keeps it.
        ({"state_since": NOW - 1}, True),
    ],
)
def test_pressure_unloads_nothing_that_is_used_or_pinned(given: dict[str, Any], may: bool) -> None:
    subject = loaded("a", "n/g0", gib=65, **given)
    by = THREE_QUARTERS.model_copy(update={"enable_model_swapping": False})
    assert relieved(subject, by=by) == (["a"] if may else [])
    assert relieved(subject, by=by, runtimes=OFF) == []


def test_pressure_says_how_full_the_device_is() -> None:
    used = loaded("a", "n/g0", gib=65, traffic=traffic(600.4, 0.0))
    (unload,) = ask(fleet(used, gpus=1, foreign_gib=5), Trigger.SWEEP, by=THREE_QUARTERS).actions
    assert unload == Unload(
        model="a",
        cause=EvictionCause.PRESSURE,
        reason="n/g0 is 88% full (max_gpu_memory_utilization is 75%), and this model has the least "
        "value per byte there; idle for 600 s",
    )


# --- always_loaded ------------------------------------------------------------------------


def always(*models: Model, names: str = "a", **given: Any) -> Plan:
    by = policy(always_loaded=frozenset(names))
    return ask(fleet(*models, **{"gpus": 1, **given}), Trigger.SWEEP, by=by)


def test_what_is_always_loaded_is_loaded_by_name_and_says_so() -> None:
    plan = always(model("c", 1), model("b", 1, state=S.UNLOADED), names="cba")
    assert shape(plan) == [("load", "b"), ("load", "c")]
    assert plan.actions[0].reason == "listed in always_loaded; vllm on n/g0, 1.00 GiB reserved"


@pytest.mark.parametrize(
    "given",
    [
        {"state": S.INGESTED},
        {"state": S.FAILED, "failures": 1, "retry_at": NOW + 1},
        {"state": S.FAILED, "failures": 5},
        {"removal": Removal(by="ann", at=1)},
        {"profile": profile(1, needs_remote_code=True)},
        {"state": S.LOADING},
    ],
)
def test_one_that_cannot_be_loaded_now_does_not_keep_the_others_from_it(
    given: dict[str, Any],
) -> None:
    assert shape(always(model("a", **given), model("b"), names="ab")) == [("load", "b")]


def test_one_that_is_loaded_is_left_alone() -> None:
    assert always(loaded("a", "n/g0", idle_s=9000)).actions == ()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (S.ANALYZED, [("queue", "a")]),
        (S.UNLOADED, [("queue", "a")]),
        (S.QUEUED, []),
    ],
)
def test_one_without_room_is_queued_once(state: S, expected: list[tuple[str, str]]) -> None:
    full = loaded("x", "n/g0", gib=70, pinned=True)
    assert shape(always(model("a", state=state), full)) == expected


def test_a_sleeping_one_without_room_sleeps_on() -> None:
    asleep = loaded("a", "n/g0", state=S.SLEEPING)
    (answer,) = always(asleep, loaded("x", "n/g0", gib=70, pinned=True)).actions
    assert answer == Keep(model="a", reason="no device has room now; models in memory: 1 pinned")


def test_one_that_is_too_large_is_rejected_once() -> None:
    world = always(model("a", 90, state=S.QUEUED))
    assert shape(world) == [("reject", "a")]
