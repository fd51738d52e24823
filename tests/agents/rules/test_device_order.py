"""Which of the devices that have room is taken."""

from __future__ import annotations

import pytest

from agents.rules.device_order import order, saturated
from agents.rules.plan_builder import Outcome
from modelium.models import GIB, Device, Fleet, Trigger
from tests.agents.rules.asking import ask
from tests.agents.rules.building import builder
from tests.agents.rules.test_placer import evict, on_nodes, place
from tests.fakes.fleets import fleet, loaded, model


def busy(world: Fleet, *shares: float | None) -> Fleet:
    """Return ``world`` with these utilizations of its devices."""
    devices = tuple(
        device.model_copy(update={"utilization": share})
        for device, share in zip(world.devices, shares, strict=True)
    )
    return world.model_copy(update={"devices": devices})


def holding(*gib: float) -> Fleet:
    models = [loaded(f"m{i}", f"n/g{i}", gib=size) for i, size in enumerate(gib) if size]
    return fleet(*models, gpus=len(gib))


@pytest.mark.parametrize(
    ("share", "expected"), [(None, False), (0.0, False), (0.899, False), (0.9, True), (1.0, True)]
)
def test_a_device_is_saturated_from_nine_tenths_on(share: float | None, expected: bool) -> None:
    device = Device(
        node="n", uuid="a", kind="gpu", total_bytes=GIB, free_bytes=GIB, utilization=share
    )
    assert saturated(device) is expected


def test_the_key_is_saturation_room_in_steps_load_in_steps_room_and_id() -> None:
    device = Device(
        node="n", uuid="a", kind="gpu", total_bytes=1000, free_bytes=0, utilization=0.59
    )
    assert order(device, 449) == (False, 8, 5, 449, "n/a")
    assert order(device, 450) == (False, 9, 5, 450, "n/a")
    full = device.model_copy(update={"utilization": 0.95})
    assert order(full, 0) == (True, 0, 9, 0, "n/a")
    bare = device.model_copy(update={"utilization": None, "total_bytes": 3})
    assert order(bare, 7) == (False, 7, 0, 7, "n/a")


def test_the_busier_of_two_equally_full_devices_is_the_worse() -> None:
    world = holding(42, 41)
    assert place(busy(world, 0.5, 0.2), 30) == (("n/g1",), 9)
    assert place(busy(world, 0.2, 0.5), 30) == (("n/g0",), 8)
    assert place(busy(world, 0.29, 0.2), 30) == (("n/g0",), 8), "less than a step apart"
    assert place(busy(world, None, 0.2), 30) == (("n/g0",), 8)


def test_a_fuller_device_is_taken_though_it_is_busier_unless_it_is_saturated() -> None:
    world = holding(50, 20)
    assert place(busy(world, 0.8, 0.0), 10) == (("n/g0",), 20)
    assert place(busy(world, 0.95, 0.0), 10) == (("n/g1",), 50)


def test_a_saturated_device_is_taken_where_no_other_has_room() -> None:
    assert place(busy(holding(20, 70), 1.0, 0.0), 30) == (("n/g0",), 30)
    assert place(busy(holding(20, 70), 1.0, 1.0), 5) == (("n/g1",), 5)


def test_a_split_model_takes_the_node_with_fewer_saturated_devices() -> None:
    world = busy(on_nodes(holding(50, 50, 0, 0), "a", "a", "b", "b"), 0.95, 0.0, 0.0, 0.0)
    assert place(world, 20, degree=2) == (("b/g2", "b/g3"), 120)


def test_of_equal_evictions_those_on_a_device_that_is_not_saturated_are_taken() -> None:
    world = holding(60, 60)
    assert evict(world, 40) == (("n/g0",), ("m0",), 1.0)
    assert evict(busy(world, 0.95, 0.1), 40) == (("n/g1",), ("m1",), 1.0)
    assert evict(busy(world, 0.95, 0.1), 40, {"m0": 0.9}) == (("n/g0",), ("m0",), 0.9)


def test_the_reason_names_the_device_that_was_spared() -> None:
    world = busy(fleet(model("a", 10), loaded("m0", "n/g0", gib=50)), 0.95, 0.1)
    some = builder(world)
    assert some.load(model("a", 10), may_evict=lambda _: False) is Outcome.PLACED
    (load,) = some.plan().loads
    assert load.reason == "vllm on n/g1, 10.00 GiB reserved; rather than on n/g0 (95% busy)"
    assert ask(world, Trigger.INGEST, "a").loads[0].devices == ("n/g1",)


def test_of_two_kinds_of_devices_the_one_that_is_not_saturated_is_taken() -> None:
    world = busy(fleet(model("a", 10), gpus=2), 0.95, 0.0)
    first, second = world.devices
    other = second.model_copy(update={"name": "A100"})
    mixed = world.model_copy(update={"devices": (first, other)})
    assert ask(mixed, Trigger.INGEST, "a").loads[0].devices == ("n/g1",)
