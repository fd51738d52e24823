from __future__ import annotations

import subprocess
import sys

from modelium.devices.nvml import NvmlInventory
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
