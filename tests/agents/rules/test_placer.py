"""Which devices a load option takes, and which models are evicted for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rules.device_groups import device_groups
from agents.rules.device_memory import DeviceMemory
from agents.rules.placement import (
    DEVICES_COMPARED,
    Placement,
    Placer,
    _shortest_prefix,
    any_model,
    no_model,
)
from agents.rules.sizing import LoadOption
from modelium.models import GIB, Booking, Device, Fleet, LoadSettings, Model, RuntimeName, Traffic
from tests.fakes.fleets import NOW, fleet, loaded, model, policy


def option(world: Fleet, gib: float, degree: int = 1) -> LoadOption:
    (group,) = device_groups(world.devices)
    return LoadOption(
        runtime=RuntimeName.VLLM,
        group=group,
        settings=LoadSettings(tensor_parallel_size=degree),
        reserve=int(gib * GIB),
    )


def placer(world: Fleet, values: dict[str, float] | None = None) -> Placer:
    known = values or {}
    return Placer(
        memory=DeviceMemory(
            fleet=world,
            policy=policy(max_gpu_memory_utilization=1.0),
            now=NOW,
            value=lambda each: known.get(each.name, 1.0),
        )
    )


def place(world: Fleet, gib: float, degree: int = 1) -> tuple[tuple[str, ...], float] | None:
    found = placer(world).in_free_memory(option(world, gib, degree))
    if found is None:
        return None
    assert (found.evicts, found.loss) == ((), 0.0)
    return found.devices, found.left / GIB


def evict(
    world: Fleet, gib: float, values: dict[str, float] | None = None, degree: int = 1
) -> tuple[tuple[str, ...], tuple[str, ...], float] | None:
    """Return the devices, the models evicted from them, and what that costs."""
    found = placer(world, values).with_evictions(option(world, gib, degree), any_model)
    return None if found is None else (found.devices, found.evicts, found.loss)


def holding(*gib: float) -> list[Model]:
    """A model of each of these sizes on its own GPU: m0 on g0, and so on."""
    return [loaded(f"m{i}", f"n/g{i}", gib=size) for i, size in enumerate(gib)]


def on_nodes(world: Fleet, *nodes: str) -> Fleet:
    devices = tuple(
        device.model_copy(update={"node": node})
        for device, node in zip(world.devices, nodes, strict=True)
    )
    bookings = tuple(
        b.model_copy(update={"device": device.id})
        for b in world.bookings
        for device in devices
        if device.uuid == b.device.removeprefix("n/")
    )
    return world.model_copy(update={"devices": devices, "bookings": bookings})


def test_the_fullest_device_with_room_is_taken_and_the_first_of_equals() -> None:
    world = fleet(*holding(20, 40, 40, 60), gpus=4)
    assert place(world, 30) == (("n/g1",), 10)
    assert place(world, 40) == (("n/g1",), 0)
    assert place(world, 41) == (("n/g0",), 19)
    assert place(world, 20) == (("n/g3",), 0)
    assert place(world, 61) is None


def test_a_split_model_takes_the_fullest_devices_of_one_node() -> None:
    world = fleet(*holding(20, 40, 30), gpus=3)
    assert place(world, 30, degree=2) == (("n/g1", "n/g2"), 30)
    assert place(world, 45, degree=2) == (("n/g2", "n/g0"), 20)
    assert place(world, 45, degree=3) is None
    apart = on_nodes(world, "a", "b", "b")
    assert place(apart, 45, degree=1) == (("b/g2",), 5)
    assert place(apart, 45, degree=2) is None


def test_the_node_with_less_left_is_taken_and_the_first_of_equals() -> None:
    world = fleet(*holding(10, 10, 20, 20), gpus=4)
    assert place(on_nodes(world, "a", "a", "b", "b"), 30, degree=2) == (("b/g2", "b/g3"), 60)
    assert place(on_nodes(world, "a", "b", "a", "b"), 30, degree=2) == (("a/g2", "a/g0"), 70)


def test_no_model_means_no_evictions_even_with_room() -> None:
    assert (any_model(model("a")), no_model(model("a"))) == (True, False)
    world = fleet()
    find = placer(world).with_evictions
    assert find(option(world, 10), no_model) is None
    assert find(option(world, 10), any_model) == Placement(
        option=option(world, 10), devices=("n/g0",)
    )


def test_the_device_whose_evictions_cost_least_is_taken() -> None:
    world = fleet(*holding(60, 60, 60), gpus=3)
    assert evict(world, 40, {"m0": 3, "m1": 2, "m2": 2.5}) == (("n/g1",), ("m1",), 2)
    assert evict(world, 40) == (("n/g0",), ("m0",), 1)
    assert evict(world, 81) is None


def test_only_what_may_be_evicted_for_this_load_is_evicted() -> None:
    world = fleet(*holding(60, 60), loaded("pin", "n/g1", pinned=True))
    found = placer(world).with_evictions(option(world, 70), lambda one: one.name != "m0")
    assert found is not None and found.evicts == ("m1",)
    assert placer(world).with_evictions(option(world, 71), lambda m: m.name != "m0") is None
    assert placer(world).with_evictions(option(world, 71), any_model) is not None


def test_a_split_model_is_placed_on_the_node_whose_evictions_cost_least() -> None:
    world = on_nodes(fleet(*holding(60, 60, 60, 60), gpus=4), "a", "a", "b", "b")
    values = {"m0": 1.0, "m1": 5.0, "m2": 2.0, "m3": 3.0}
    assert evict(world, 40, values, degree=2) == (("b/g2", "b/g3"), ("m2", "m3"), 5)
    assert evict(world, 40, degree=2) == (("a/g0", "a/g1"), ("m0", "m1"), 2)
    assert evict(world, 40, values, degree=3) is None


def test_evicting_a_split_model_frees_its_other_devices_too() -> None:
    world = fleet(loaded("wide", "n/g0", "n/g1", gib=120), *holding(5, 5), gpus=2)
    found = evict(world, 75, {"wide": 4, "m0": 1, "m1": 1}, degree=2)
    assert found == (("n/g0", "n/g1"), ("wide",), 4)
    found = evict(world, 76, {"wide": 4, "m0": 1, "m1": 1}, degree=2)
    assert found == (("n/g0", "n/g1"), ("wide", "m0", "m1"), 6)


def crowd(count: int, **given: dict[str, Any]) -> Fleet:
    """GPUs with a model of 60 GiB each; ``given``: the traffic of some."""
    usual = {"rates": (9.0, 9.0, 1.0, 9.0), "qps_last_hour": 9.0}
    models = [
        loaded(f"m{i}", f"n/g{i}", gib=60, traffic=Traffic(**{**usual, **given.get(f"m{i}", {})}))
        for i in range(count)
    ]
    return fleet(*models, gpus=count)


@pytest.mark.parametrize(
    "often",
    [
        {"rates": (0.0, 0.0, 2.0, 0.0), "qps_last_hour": 0.0},
        {"rates": (0.0, 0.0, 2.0), "qps_last_hour": 0.0},
        {"rates": (0.0, 0.0), "qps_last_hour": 2.0},
        {"rates": (), "qps_last_hour": 2.0},
    ],
)
def test_many_devices_are_compared_where_models_are_requested_least(often: dict[str, Any]) -> None:
    least = {"m5": 0.1}
    assert evict(crowd(DEVICES_COMPARED, m5=often), 40, least) == (("n/g5",), ("m5",), 0.1)
    assert evict(crowd(DEVICES_COMPARED + 1, m5=often), 40, least) == (("n/g0",), ("m0",), 1)
    # Only what may be evicted counts.
    world = crowd(DEVICES_COMPARED + 1, m5=often)
    rare = loaded("rare", "n/g5", gib=1, traffic=Traffic(rates=(0.0,) * 4))
    busier = Fleet.model_validate(
        fleet(*world.models, rare, gpus=DEVICES_COMPARED + 1).model_dump()
    )
    assert evict(busier, 40, {**least, "rare": 0.001}) == (("n/g5",), ("m5",), 0.1)
    find = placer(busier, least).with_evictions
    found = find(option(busier, 40), lambda one: one.name != "rare")
    assert found is not None and found.devices == ("n/g0",)


def test_as_many_devices_are_compared_as_a_split_needs() -> None:
    count = DEVICES_COMPARED + 4
    found = evict(crowd(count), 40, degree=count)
    assert found is not None
    assert len(found[0]) == len(found[1]) == found[2] == count
    assert evict(crowd(count), 40, degree=count + 1) is None


def test_a_free_device_among_many_spares_an_eviction() -> None:
    count = DEVICES_COMPARED + 2
    world = crowd(count)
    free = Device(
        node="n", uuid="z", kind="gpu", name="H100", total_bytes=80 * GIB, free_bytes=80 * GIB
    )
    world = Fleet.model_validate({**world.model_dump(), "devices": (*world.devices, free)})
    assert evict(world, 40, degree=2) == (("n/z", "n/g0"), ("m0",), 1)
    pinned = crowd(count).model_copy(
        update={"models": tuple(m.model_copy(update={"pinned": True}) for m in world.models)}
    )
    assert evict(pinned, 40) is None


def victims(world: Fleet, gib: float, **values: float) -> tuple[str, ...] | None:
    found = evict(world, gib, values)
    return None if found is None else found[1]


def on_one(*gib: float, **given: Any) -> Fleet:
    """One GPU with models a, b, c … of these sizes."""
    models = [loaded(name, "n/g0", gib=size) for name, size in zip("abcdef", gib, strict=False)]
    return fleet(*models, gpus=1, **given)


def test_the_least_value_per_byte_is_evicted_until_the_load_fits() -> None:
    world = on_one(10, 10, 10, 10)  # 40 GiB are free
    values = {"a": 4.0, "b": 1.0, "c": 3.0, "d": 2.0}
    assert victims(world, 50, **values) == ("b",)
    assert victims(world, 51, **values) == ("b", "d")
    assert victims(world, 80, **values) == ("b", "d", "c", "a")
    assert victims(world, 81, **values) is None


def test_a_larger_model_goes_before_smaller_ones_of_a_little_less_value_per_byte() -> None:
    world = on_one(10, 30, 10)  # 30 GiB are free
    assert victims(world, 65, a=1.0, b=3.3, c=1.0) == ("b", "a")
    assert victims(world, 65, a=1.0, b=4.0, c=1.0) == ("c", "b")


def test_what_turns_out_not_to_be_needed_is_put_back_most_valuable_first() -> None:
    # By value per byte: a, b, c; together with c, neither a nor b is needed, and b is worth more.
    world = on_one(10, 10, 15)  # 45 GiB are free
    assert victims(world, 70, a=1.0, b=1.1, c=2.0) == ("a", "c")
    assert victims(world, 71, a=1.0, b=1.1, c=2.0) == ("a", "b", "c")


def test_one_model_that_suffices_is_evicted_where_it_costs_less_with_what_it_spares() -> None:
    # a and b free 9 GiB beyond the need; a GiB is worth 0.85 of b's value per GiB.
    pair = 2.0 - 9 * 0.85 / 10
    exact = on_one(10, 10, 11)  # 49 GiB are free
    assert victims(exact, 60, a=1.0, b=1.0, c=pair - 0.01) == ("c",)
    assert victims(exact, 60, a=1.0, b=1.0, c=pair + 0.01) == ("a", "b")
    larger = on_one(10, 10, 12)  # 48 GiB are free, and c frees a GiB beyond the need
    assert victims(larger, 59, a=1.0, b=1.0, c=pair + 0.085 - 0.01) == ("c",)
    assert victims(larger, 59, a=1.0, b=1.0, c=pair + 0.085 + 0.01) == ("a", "b")


def test_the_cheapest_single_model_of_several_is_evicted() -> None:
    world = on_one(10, 10, 11, 11, 9)  # 29 GiB are free
    assert victims(world, 40, a=1.0, b=1.0, c=1.2, d=1.19, e=5.0) == ("d",)
    assert victims(world, 40, a=1.0, b=1.0, c=1.19, d=1.2, e=5.0) == ("c",)
    assert victims(world, 38, a=1.0, b=1.0, c=1.2, d=1.2, e=0.91) == ("e",)
    assert victims(world, 38, a=1.0, b=1.0, c=1.2, d=1.2, e=0.92) == ("a",)


def test_bytes_beyond_a_booking_are_no_room_where_others_hold_them() -> None:
    """A model's booking counts for the ledger, what it holds for the driver: the smaller frees."""
    world = on_one(10, 10, foreign_gib=30)  # 30 GiB are free
    took = [
        b.model_copy(update={"bytes": 40 * GIB}) if b.model == "a" else b for b in world.bookings
    ]
    held = world.model_copy(update={"bookings": tuple(took)})
    # a's 40 GiB are booked, 10 of them held: with its 30 unfilled, nothing is free.
    assert victims(held, 35, a=1.0, b=1.0) == ("a",)
    assert victims(held, 41, a=1.0, b=1.0) == ("a", "b")
    assert victims(held, 51, a=1.0, b=1.0) is None
    # Where foreign processes hold some of what is unfilled, an eviction frees that much less.
    (device,) = held.devices
    fuller = device.model_copy(update={"free_bytes": 20 * GIB})
    overbooked = held.model_copy(update={"devices": (fuller,)})
    assert victims(overbooked, 30, a=1.0, b=1.0) == ("a",)
    assert victims(overbooked, 35, a=1.0, b=1.0) == ("a", "b")


def test_room_needs_no_victims_on_the_device_of_a_split() -> None:
    world = fleet(*holding(60), gpus=2)
    assert evict(world, 40, degree=2) == (("n/g1", "n/g0"), ("m0",), 1)


@given(length=st.integers(1, 40), data=st.data())
def test_the_shortest_prefix_is_found_without_trying_all(length: int, data: st.DataObject) -> None:
    needed = data.draw(st.integers(1, length))
    models = [model("a")] * length
    tried: list[int] = []

    def suffices(some: list[Model]) -> bool:
        tried.append(len(some))
        return len(some) >= needed

    assert _shortest_prefix(models, suffices) == needed
    assert len(tried) <= 6


def test_what_a_releasing_model_holds_is_not_evicted_twice() -> None:
    world = on_one(60)
    (held,) = world.bookings
    leaving = world.model_copy(
        update={"bookings": (Booking(**{**held.model_dump(), "releasing": True}),)}
    )
    assert evict(leaving, 40) is None
