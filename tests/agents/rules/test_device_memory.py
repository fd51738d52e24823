"""The memory of the devices while a plan grows, and which models may be evicted from them."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.device_memory import DeviceMemory
from modelium.lifecycle import ModelState
from modelium.models import GIB, Booking, Fleet, Model, RuntimeName, RuntimeStatus, Traffic
from modelium.policy import Policy, RuntimeRules
from tests.fakes.fleets import NOW, fleet, loaded, model, policy

V = RuntimeName.VLLM


def memory_of(world: Fleet, by: Policy | None = None) -> DeviceMemory:
    by = by or policy(max_gpu_memory_utilization=1.0)
    return DeviceMemory(fleet=world, policy=by, now=NOW, value=lambda _: 0.0)


def booked(name: str, gib: int, **given: Any) -> Booking:
    return Booking(**{"model": name, "device": "n/g0", "bytes": gib * GIB, **given})


def names(models: list[Model]) -> list[str]:
    return [each.name for each in models]


def test_a_value_is_computed_once_per_model() -> None:
    asked: list[str] = []

    def value(each: Model) -> float:
        asked.append(each.name)
        return 0.0 if each.name == "a" else 2.5

    a, b = loaded("a", "n/g0"), loaded("b", "n/g1")
    memory = DeviceMemory(fleet=fleet(a, b), policy=policy(), now=NOW, value=value)
    assert [memory.value(each) for each in (a, b, a, b)] == [0.0, 2.5, 0.0, 2.5]
    assert asked == ["a", "b"]


def test_loads_and_unloads_of_the_plan_change_the_room_of_their_devices_alone() -> None:
    old, wide = loaded("old", "n/g0", gib=30), loaded("wide", "n/g0", "n/g1", gib=20)
    memory = memory_of(fleet(old, wide))

    def rooms() -> list[int]:
        return [memory.room(f"n/g{i}") // GIB for i in range(2)]

    assert rooms() == [40, 70]
    assert memory.room("n/g0", frozenset({"old"})) == 70 * GIB
    assert memory.room("n/g0", frozenset({"old", "wide"})) == 80 * GIB
    assert rooms() == [40, 70]
    memory.load(model("new"), ("n/g1",), 50 * GIB)
    assert rooms() == [40, 20]
    memory.unload(wide)
    assert memory.leaving == {"wide"}
    assert rooms() == [50, 30]
    assert memory.room("n/g0", frozenset({"old"})) == 80 * GIB
    memory.unload(model("nowhere"))
    assert memory.leaving == {"wide", "nowhere"}
    assert rooms() == [50, 30]


def test_the_operators_share_limits_the_room() -> None:
    memory = memory_of(fleet(gpus=1), policy(max_gpu_memory_utilization=0.75))
    assert memory.room("n/g0") == 60 * GIB


def test_bookings_are_the_fleets_and_then_the_plans() -> None:
    world = fleet(loaded("a", "n/g0"))
    memory = memory_of(world)
    for name in ("b", "c"):
        memory.load(model(name), ("n/g0", "n/g1"), GIB)
    added = [booked(name, 1) for name in ("b", "c")]
    assert memory.bookings("n/g0") == (*world.bookings, *added)
    assert memory.bookings("n/g1") == tuple(b.model_copy(update={"device": "n/g1"}) for b in added)
    assert memory.bookings("n/none") == ()


def test_a_model_gives_back_the_larger_of_what_it_booked_and_holds() -> None:
    world = fleet(
        bookings=(
            booked("more", 5, resident_bytes=7 * GIB),
            booked("less", 5, resident_bytes=3 * GIB),
            booked("unknown", 5, resident_bytes=None),
            booked("other", 5, device="n/g1"),
        )
    )
    memory = memory_of(world)
    assert memory.held("n/g0") == {"more": 7 * GIB, "less": 5 * GIB, "unknown": 5 * GIB}
    assert memory.held("n/none") == {}


def test_what_may_be_evicted_comes_in_the_order_of_the_bookings() -> None:
    models = [loaded(name, "n/g0") for name in ("c", "a", "b", "leaving")]
    pinned = loaded("pinned", "n/g0", pinned=True)
    held = [booked(each.name, 1) for each in (*models[:3], pinned)]
    world = fleet(
        *models,
        pinned,
        bookings=(booked("leaving", 1, releasing=True), booked("ghost", 1), *held),
    )
    memory = memory_of(world)
    assert names(memory.evictable("n/g0")) == ["c", "a", "b"]
    assert memory.evictable("n/g1") == []
    memory.unload(models[1])
    assert names(memory.evictable("n/g0")) == ["c", "b"]


OFF = {"enable_model_swapping": False}


def ready_for(seconds: float, **given: Any) -> Model:
    one = loaded("a", "n/g0", **given)
    assert one.deployment is not None
    held = one.deployment.model_copy(update={"ready_at": NOW - seconds})
    return one.model_copy(update={"deployment": held})


@pytest.mark.parametrize(
    ("subject", "by", "why"),
    [
        (ready_for(60), {}, ""),
        (ready_for(59), {}, "ready for less than 60 s (min_residency_seconds)"),
        (
            ready_for(9),
            {"min_residency_s": 9.5},
            "ready for less than 9.5 s (min_residency_seconds)",
        ),
        (loaded("a", "n/g0", state=ModelState.SLEEPING), {}, "sleeping"),
        (loaded("a", "n/g0", state=ModelState.DRAINING), {}, "draining"),
        (loaded("a", "n/g0", traffic=Traffic(in_flight=1)), {}, "busy"),
        (loaded("a", "n/g0", traffic=Traffic(pending=1)), {}, "busy"),
        (loaded("a", "n/g0", pinned=True), {}, "pinned"),
        (loaded("a", "n/g0"), {"always_loaded": frozenset({"a"})}, "pinned"),
        (loaded("a", "n/g0", deployment=None), {}, "on a runtime that is disabled or unhealthy"),
        (loaded("a", "n/g0"), OFF, "kept because enable_model_swapping is off"),
        # What idled out needs no swapping, and may be young.
        (loaded("a", "n/g0", idle_s=3601), OFF, ""),
        (loaded("a", "n/g0", idle_s=3601), {"min_residency_s": 90_000.0}, ""),
        (loaded("a", "n/g0", idle_s=3600), OFF, "kept because enable_model_swapping is off"),
    ],
)
def test_a_model_is_kept_for_the_first_reason_that_applies(
    subject: Model, by: dict[str, Any], why: str
) -> None:
    assert memory_of(fleet(subject), policy(**by)).unevictable_because(subject) == why


def test_what_the_plan_unloads_is_not_evicted_again() -> None:
    subject = loaded("a", "n/g0")
    memory = memory_of(fleet(subject))
    memory.unload(subject)
    assert memory.unevictable_because(subject) == "ready"


@pytest.mark.parametrize(
    ("statuses", "rules", "evictable"),
    [
        ((RuntimeStatus(name=V, enabled=True, healthy=True),), RuntimeRules(), True),
        ((RuntimeStatus(name=V, enabled=False, healthy=True),), RuntimeRules(), False),
        ((RuntimeStatus(name=V, enabled=True, healthy=False),), RuntimeRules(), False),
        ((RuntimeStatus(name=V, enabled=True, healthy=True),), RuntimeRules(enabled=False), False),
        ((), RuntimeRules(), False),
    ],
)
def test_only_a_runtime_that_is_enabled_and_answers_evicts(
    statuses: tuple[RuntimeStatus, ...], rules: RuntimeRules, evictable: bool
) -> None:
    subject = loaded("a", "n/g0")
    memory = memory_of(fleet(subject, runtimes=statuses), policy(runtimes={V: rules}))
    why = "" if evictable else "on a runtime that is disabled or unhealthy"
    assert memory.unevictable_because(subject) == why
