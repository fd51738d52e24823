from __future__ import annotations

import asyncio
import subprocess
import sys

from modelium.clock import SystemClock
from modelium.devices.nvml import NvmlInventory
from runtimes.process import gpu_release
from runtimes.process.gpu_release import released
from tests.fakes.nvml import GIB, FakeGpu, FakeNvml, fake_nvml, nvml_library
from tests.runtimes.requests import Inventory

__all__ = ["fake_nvml", "nvml_library"]


async def test_memory_is_waited_for_until_the_process_lets_go(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = NvmlInventory(node="n")
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    fake_nvml.occupy("GPU-a", holder.pid, GIB)
    waiting = asyncio.create_task(released(inventory, ["n/GPU-a"], [holder.pid], SystemClock()))
    await asyncio.sleep(3 * gpu_release.POLL_S)
    assert not waiting.done()
    holder.communicate()
    assert await waiting
    assert inventory.snapshot()[0].free_bytes == 80 * GIB


async def test_memory_that_somebody_else_keeps_is_not_waited_for(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", used=40 * GIB))
    assert await released(NvmlInventory(node="n"), ["n/GPU-a"], [1], SystemClock())


async def test_memory_that_does_not_come_back_is_told(fake_nvml: FakeNvml, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(gpu_release, "DEADLINE_S", 0.5)
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    fake_nvml.occupy("GPU-a", holder.pid, GIB)
    try:
        inventory = NvmlInventory(node="n")
        assert not await released(inventory, ["n/GPU-a"], [holder.pid], SystemClock())
    finally:
        holder.communicate()


async def test_a_cpu_gives_back_at_once() -> None:
    assert await released(Inventory(), ["n/cpu"], [1], SystemClock())
