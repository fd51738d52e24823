"""Waits until the driver gives a dead engine's memory back: processes end sooner than that."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from modelium.ports import Clock, DeviceInventory

POLL_S = 0.25
DEADLINE_S = 15.0
"""Several seconds were seen after tens of GiB; past this something else holds the memory."""
STEADY_BYTES = 64 * 1024**2
"""Free memory that grows by less than this between two looks has come back."""


async def released(
    devices: DeviceInventory, ids: Collection[str], pids: Collection[int], clock: Clock
) -> bool:
    """Wait until no process of ``pids`` holds memory on ``ids`` and free memory stopped growing.

    The second condition also serves where the driver hides processes (containers). False where
    it did not happen within `DEADLINE_S`. CPU devices give back at once.
    """
    deadline = clock.monotonic() + DEADLINE_S
    before: int | None = None
    while True:
        found = [
            device
            for device in await asyncio.to_thread(devices.snapshot)
            if device.id in ids and device.kind == "gpu" and device.healthy
        ]
        if not found:
            return True
        held = any(process.pid in pids for device in found for process in device.processes)
        free = sum(device.free_bytes for device in found)
        if not held and before is not None and free - before < STEADY_BYTES:
            return True
        if clock.monotonic() >= deadline:
            return False
        before = free
        await clock.sleep(POLL_S)
