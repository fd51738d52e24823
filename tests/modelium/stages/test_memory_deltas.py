"""What a load takes is read off the GPU where its driver does not show processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from modelium.models import GIB, Booking, Deployment, Device, LoadSettings, RuntimeName
from modelium.policy.memory_budget import available_bytes
from modelium.ports import Loaded, LoadRequest, Progress
from modelium.stages import memory_deltas
from modelium.stages.evict import evict
from modelium.stages.memory_deltas import DeviceActivity
from modelium.stages.monitor import monitor
from tests.fakes.devices import FixedInventory
from tests.fakes.runtime import MemoryRuntime
from tests.modelium.conftest import World

GPU = Device(
    node="here",
    uuid="GPU-0",
    kind="gpu",
    name="RTX 4090",
    total_bytes=int(23.5 * GIB),
    free_bytes=int(23.5 * GIB),
    processes=None,
)


class HiddenGpu:
    """A GPU on which a runtime's models take memory, without a list of processes."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        """By model, and by ``others``."""

    def snapshot(self) -> tuple[Device, ...]:
        free = GPU.free_bytes - sum(self.held.values())
        return (GPU.model_copy(update={"free_bytes": free}),)


@pytest.fixture
def hidden(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[HiddenGpu]:
    """The world's runtime with models of 3 GiB; 1 GiB of each stays after its unload."""
    gpu = HiddenGpu()
    world.services = replace(world.services, devices=gpu)
    load, unload = MemoryRuntime.load, MemoryRuntime.unload

    async def take(self: MemoryRuntime, request: LoadRequest, *, progress: Progress) -> Loaded:
        loaded = await load(self, request, progress=progress)
        gpu.held[request.model] = 3 * GIB
        return loaded

    async def give(
        self: MemoryRuntime, model: str, *, handle: Mapping[str, Any], grace_s: float
    ) -> None:
        await unload(self, model, handle=handle, grace_s=grace_s)
        gpu.held[model] = GIB

    monkeypatch.setattr(MemoryRuntime, "load", take)
    monkeypatch.setattr(MemoryRuntime, "unload", give)
    yield gpu


async def test_a_load_on_a_gpu_without_process_list_is_measured_by_its_free_memory(
    world: World, hidden: HiddenGpu
) -> None:
    await world.load()
    (booking,) = world.store.view()[2]
    assert booking.resident_bytes == 3 * GIB

    await monitor(world.services)
    assert world.store.view()[2][0].resident_bytes == 3 * GIB, "it is not overwritten with 0"


async def test_memory_of_other_processes_is_not_the_models(world: World, hidden: HiddenGpu) -> None:
    hidden.held["others"] = 5 * GIB
    await world.load()
    bookings = world.store.view()[2]
    assert bookings[0].resident_bytes == 3 * GIB
    (device,) = hidden.snapshot()
    room = available_bytes(device, bookings, cap=0.9)
    assert room == int(GPU.total_bytes * 0.9 - 8 * GIB)


async def test_what_two_loads_at_once_take_is_not_told_apart(
    world: World, hidden: HiddenGpu
) -> None:
    world.runtime.gate.clear()
    for name, weight in (("one", 1.0), ("two", 2.0)):
        world.runtime.asked.clear()
        await world.drop(name, weight=weight)
        await world.runtime.asked.wait()
    world.runtime.gate.set()
    await world.settled("one", "ready")
    await world.settled("two", "ready")

    for booking in world.store.view()[2]:
        assert booking.resident_bytes is None
        assert booking.held_bytes == booking.bytes


async def test_memory_that_does_not_come_back_is_the_runtimes_and_named(
    world: World, hidden: HiddenGpu
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    event = await world.event("memory.kept")
    assert event.model == "tiny"
    assert event.detail == {"runtime": "ray_serve", "device": GPU.id, "bytes": GIB}
    assert not world.store.view()[2], "no model is charged for it"


async def test_an_unload_that_frees_all_says_nothing(
    world: World, hidden: HiddenGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.load()
    monkeypatch.setattr(memory_deltas, "KEPT_BYTES", 2 * GIB)
    await evict(world.services, models=["tiny"])
    await asyncio.sleep(0)
    assert ("memory.kept", "tiny") not in world.kinds()


def test_a_server_of_many_models_keeps_what_its_first_model_took_too_much() -> None:
    before, after = {GPU.id: 20 * GIB}, {GPU.id: 18 * GIB}
    reserve = {GPU.id: GIB}
    for runtime, expected in ((RuntimeName.TRITON, GIB), (RuntimeName.VLLM, 2 * GIB)):
        deployment = Deployment(
            model="m",
            version=1,
            runtime=runtime,
            devices=(GPU.id,),
            settings=LoadSettings(),
            started_at=0.0,
        )
        found = memory_deltas.taken(deployment, reserve, before, after)
        assert found == {("m", GPU.id): expected}
        assert memory_deltas.taken(deployment, reserve, after, before) == {}


def test_nobody_can_tell_what_was_kept_of_an_unknown_amount() -> None:
    booked = Booking(model="m", device=GPU.id, bytes=8 * GIB, resident_bytes=None)
    assert memory_deltas.kept([booked], {GPU.id: 0}, {GPU.id: 0}) == {}


def test_loads_on_different_devices_do_not_disturb_each_other() -> None:
    activity = DeviceActivity()
    with activity.on(["a"]) as one, activity.on(["b"]) as other:
        assert one.alone and other.alone
    with activity.on(["a"]) as first:
        with activity.on(["a", "b"]) as second:
            assert not first.alone and not second.alone
        with activity.on(["b"]) as third:
            assert third.alone
    with activity.on(["a"]) as later:
        assert later.alone


def test_a_load_is_told_apart_on_each_device() -> None:
    deployment = Deployment(
        model="m",
        version=1,
        runtime=RuntimeName.VLLM,
        devices=("a", "b", "c", "d"),
        settings=LoadSettings(),
        started_at=0.0,
    )
    before = {"a": 10, "b": 10, "c": 10}
    after = {"a": 7, "b": 10, "d": 1}
    assert memory_deltas.taken(deployment, {}, before, after) == {("m", "a"): 3}
    shared = deployment.model_copy(update={"runtime": RuntimeName.TRITON})
    reserve = {"a": 2}
    assert memory_deltas.taken(shared, reserve, before, after) == {("m", "a"): 2}
    assert memory_deltas.taken(shared, {}, before, after) == {}
    assert memory_deltas.taken(shared, {"a": 5}, before, {"a": 9}) == {("m", "a"): 1}


def test_what_was_kept_is_named_from_a_threshold_on() -> None:
    most = memory_deltas.KEPT_BYTES

    def held(device: str, resident: int | None) -> Booking:
        return Booking(model="m", device=device, bytes=8 * GIB, resident_bytes=resident)

    bookings = [
        held("unknown", None),
        held("new", 2 * most),
        held("gone", 2 * most),
        held("below", most + 4),
        held("at", most + 5),
        held("back", 2 * most),
    ]
    before = {"unknown": 5, "gone": 5, "below": 5, "at": 5, "back": 5}
    after = {"unknown": 5, "new": 5, "below": 10, "at": 10, "back": 5 + 2 * most}
    assert memory_deltas.kept(bookings, before, after) == {"at": most}


async def test_the_free_memory_is_read_of_gpus_that_can_be_read() -> None:
    odd = {"kind": "cpu"}, {"healthy": False}, {"total_bytes": 0}
    devices = [
        GPU.model_copy(update={"uuid": f"GPU-{n}", **fields}) for n, fields in enumerate(odd)
    ]
    other = GPU.model_copy(update={"uuid": "GPU-8"})
    byte = GPU.model_copy(update={"uuid": "GPU-9", "total_bytes": 1, "free_bytes": 1})
    devices += [other, byte]
    ids = [device.id for device in devices if device is not other]
    assert await memory_deltas.free_bytes(FixedInventory(*devices), ids) == {byte.id: 1}


def test_activity_is_disturbed_by_what_begins_beside_it() -> None:
    activity = DeviceActivity()
    with activity.on(["a"]) as first, activity.on(["b"]) as other, activity.on(["a"]) as second:
        assert (first.alone, other.alone, second.alone) == (False, True, False)
    with pytest.raises(RuntimeError), activity.on(["a"]):
        raise RuntimeError
    with activity.on(["a"]) as later:
        assert later.alone
