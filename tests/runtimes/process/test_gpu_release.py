from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from modelium.devices.nvml import NvmlInventory
from modelium.models import Device, DeviceProcess
from runtimes.process.gpu_release import DEADLINE_S, wait_for_release
from tests.fakes.nvml import GIB, FakeGpu, FakeNvml
from tests.runtimes.clock import FakeClock
from tests.runtimes.requests import Inventory


async def test_memory_is_waited_for_until_the_process_releases_it(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = NvmlInventory(node="n")
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    fake_nvml.occupy("GPU-a", holder.pid, GIB)
    held_at_sleep: list[bool] = []

    def on_sleep() -> None:
        held_at_sleep.append(holder.poll() is None)
        if len(held_at_sleep) == 3:
            holder.communicate()

    assert await wait_for_release(inventory, ["n/GPU-a"], [holder.pid], FakeClock(on_sleep))
    assert held_at_sleep[:3] == [True, True, True]
    assert inventory.snapshot()[0].free_bytes == 80 * GIB


async def test_memory_of_other_processes_is_not_waited_for(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", used=40 * GIB))
    assert await wait_for_release(NvmlInventory(node="n"), ["n/GPU-a"], [1], FakeClock())


async def test_memory_that_is_not_released_is_reported_after_the_deadline(
    fake_nvml: FakeNvml,
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    fake_nvml.occupy("GPU-a", holder.pid, GIB)
    clock = FakeClock()
    begun = clock.now
    try:
        inventory = NvmlInventory(node="n")
        assert not await wait_for_release(inventory, ["n/GPU-a"], [holder.pid], clock)
        assert clock.now - begun >= DEADLINE_S
    finally:
        holder.communicate()


async def test_memory_of_a_cpu_is_free_at_once() -> None:
    assert await wait_for_release(Inventory(), ["n/cpu"], [1], FakeClock())


MIB = 1024**2
HOLDER = (DeviceProcess(pid=7, used_bytes=GIB),)
OTHER = (DeviceProcess(pid=8, used_bytes=GIB),)


def gpu(free_bytes: int, *, uuid: str = "a", **changes: object) -> Device:
    return Device(
        node="n", uuid=uuid, kind="gpu", total_bytes=80 * GIB, free_bytes=free_bytes
    ).model_copy(update=changes)


class Readings:
    """An inventory that returns these readings in turn, the last one for ever."""

    def __init__(self, *readings: Sequence[Device]) -> None:
        self.readings = list(readings)

    def snapshot(self) -> Sequence[Device]:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


@pytest.mark.parametrize(
    ("readings", "looks"),
    [
        ([[gpu(0)]], 2),
        ([[gpu(0)], [gpu(64 * MIB)], [gpu(128 * MIB - 1)], [gpu(0)]], 3),
        ([[gpu(2 * MIB)], [gpu(MIB)]], 2),
        ([[gpu(0, processes=HOLDER)]] * 3 + [[gpu(0, processes=OTHER)]], 4),
        ([[gpu(0, processes=HOLDER), gpu(0, uuid="b")]] * 2 + [[gpu(0), gpu(0, uuid="b")]], 3),
        ([[gpu(0, uuid="b"), gpu(0)], [gpu(64 * MIB, uuid="b"), gpu(0)]], 3),
        ([[gpu(0), gpu(0, uuid="other")], [gpu(0), gpu(GIB, uuid="other")]], 2),
        ([[gpu(0, uuid="other", processes=HOLDER)]], 1),
        ([[gpu(0, healthy=False, processes=HOLDER)]], 1),
        ([[gpu(0, kind="cpu", processes=HOLDER)]], 1),
        ([[gpu(0, processes=HOLDER)], []], 2),
    ],
)
async def test_memory_is_free_when_nobody_holds_it_and_no_more_comes(
    readings: list[Sequence[Device]], looks: int
) -> None:
    clock = FakeClock()
    released = await wait_for_release(Readings(*readings), {"n/a", "n/b"}, {7, 9}, clock)
    assert released is True
    assert clock.now == 1000 + 0.25 * (looks - 1)


async def test_memory_that_is_held_is_given_up_at_the_deadline_and_looked_at_a_last_time() -> None:
    held, free = [gpu(0, processes=HOLDER)], [gpu(0)]
    clock = FakeClock()
    assert await wait_for_release(Readings(held), ["n/a"], [7], clock) is False
    assert clock.now == 1000 + DEADLINE_S
    clock = FakeClock()
    assert await wait_for_release(Readings(*[held] * 60, free), ["n/a"], [7], clock)
    assert clock.now == 1000 + DEADLINE_S
