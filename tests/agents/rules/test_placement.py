from __future__ import annotations

from agents.rules.keep_value import keep_value
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    EvictionCause,
    Fleet,
    Load,
    Priority,
    Traffic,
    Trigger,
    Unload,
)
from tests.agents.rules.asking import ask, crowded, shape, traffic
from tests.fakes.fleets import NOW, fleet, loaded, model, profile


def test_a_small_model_fills_a_small_hole() -> None:
    world = fleet(model("a", 8), loaded("x", "n/g0", gib=60), loaded("y", "n/g1", gib=20))
    (load,) = ask(world, Trigger.INGEST, "a").actions
    assert isinstance(load, Load)
    assert load.devices == ("n/g0",)


def test_it_is_not_split_over_nodes_or_unlike_devices() -> None:
    big = model("big", 100, profile=profile(100, tensor_parallel_degrees=(1, 2)))
    world = fleet(big)
    far = world.devices[1].model_copy(update={"node": "other"})
    apart = Fleet.model_validate(
        world.model_copy(update={"devices": (world.devices[0], far)}).model_dump()
    )
    assert shape(ask(apart, Trigger.INGEST, "big")) == [("reject", "big")]


def test_an_unhealthy_device_gets_nothing() -> None:
    world = fleet(model("a"), gpus=1)
    lost = world.devices[0].model_copy(update={"healthy": False, "detail": "GPU is lost"})
    broken = Fleet.model_validate(world.model_copy(update={"devices": (lost,)}).model_dump())
    assert shape(ask(broken, Trigger.DEMAND, "a")) == [("queue", "a")]


def test_a_request_evicts_the_least_valuable_model() -> None:
    plan = ask(fleet(model("a", 40), *crowded()), Trigger.DEMAND, "a")
    assert shape(plan) == [("unload", "rare"), ("load", "a")]
    unload = plan.actions[0]
    assert isinstance(unload, Unload)
    assert unload.cause is EvictionCause.SPACE
    assert "makes room for a: idle for 3000 s" in unload.reason


def test_a_model_with_a_request_in_flight_is_never_swapped_out() -> None:
    busy = loaded("busy", "n/g0", gib=60, traffic=Traffic(in_flight=1))
    assert shape(ask(fleet(model("a", 40), busy, gpus=1), Trigger.DEMAND, "a")) == [("queue", "a")]


def test_nothing_is_evicted_for_a_load_that_still_does_not_fit() -> None:
    pinned = loaded("pin", "n/g0", gib=40, pinned=True)
    small = loaded("small", "n/g0", gib=20)
    world = fleet(model("a", 60), pinned, small, gpus=1)
    assert shape(ask(world, Trigger.DEMAND, "a")) == [("queue", "a")]


def test_no_more_models_are_evicted_than_needed() -> None:
    world = fleet(
        model("a", 30),
        *[loaded(f"s{i}", "n/g0", gib=10, traffic=traffic(3000 + i, 0.0001)) for i in range(4)],
        loaded("big", "n/g0", gib=30, traffic=traffic(100, 0.01)),
        gpus=1,
    )
    unloads = [a for a in ask(world, Trigger.DEMAND, "a").actions if isinstance(a, Unload)]
    assert len(unloads) <= 3
    assert {a.model for a in unloads} <= {"s0", "s1", "s2", "s3"}


def test_one_large_model_is_evicted_before_a_small_one_of_slightly_lower_value() -> None:
    """What it leaves free serves the next load."""
    small = loaded("small", "n/g0", gib=24, traffic=traffic(900, 0.001))
    large = loaded("large", "n/g0", gib=46, traffic=traffic(400, 0.002))
    assert 1.3 < keep_value(large, now=NOW) / keep_value(small, now=NOW) < 1.6
    world = fleet(model("x", 20), small, large, gpus=1)
    assert shape(ask(world, Trigger.DEMAND, "x")) == [("unload", "large"), ("load", "x")]
    precious = loaded("large", "n/g0", gib=46, traffic=traffic(60, 0.02))
    world = fleet(model("x", 20), small, precious, gpus=1)
    assert shape(ask(world, Trigger.DEMAND, "x")) == [("unload", "small"), ("load", "x")]


def test_memory_beyond_a_booking_counts_as_freed_by_the_eviction() -> None:
    big = loaded("big", "n/g0", gib=16, traffic=traffic(400, 0.005))
    small = [loaded(n, "n/g0", gib=10, traffic=traffic(900, 0.001)) for n in "abc"]
    assert 1.8 < keep_value(big, now=NOW) / keep_value(small[0], now=NOW) < 3
    world = fleet(model("x", 40), big, *small, gpus=1, foreign_gib=14)
    took = [b.model_copy(update={"resident_bytes": 30 * GIB}) for b in world.bookings[:1]]
    world = world.model_copy(update={"bookings": (*took, *world.bookings[1:])})
    assert shape(ask(world, Trigger.DEMAND, "x")) == [("unload", "big"), ("load", "x")]


def test_a_lower_class_is_evicted_before_a_higher_one() -> None:
    world = fleet(
        model("a", 40),
        loaded("high", "n/g0", gib=60, traffic=traffic(600, 0.001), priority=Priority.HIGH),
        loaded("low", "n/g1", gib=60, traffic=traffic(400, 0.002)),
    )
    assert shape(ask(world, Trigger.DEMAND, "a"))[0] == ("unload", "low")


def test_memory_is_not_used_before_its_release_is_verified() -> None:
    leaving = Booking(
        model="gone", device="n/g0", bytes=60 * GIB, resident_bytes=60 * GIB, releasing=True
    )
    gone = loaded("gone", "n/g0", gib=60, state=ModelState.UNLOADING)
    world = fleet(model("a", 40), gone, gpus=1, bookings=(leaving,))
    assert shape(ask(world, Trigger.DEMAND, "a")) == [("queue", "a")]
