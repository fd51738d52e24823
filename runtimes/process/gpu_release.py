"""Waits until the driver has freed an engine's memory, which takes longer than the process."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from modelium.ports import Clock, DeviceInventory

POLL_S = 0.25
DEADLINE_S = 15.0
"""Tens of GiB were seen to take several seconds; after this something else holds the memory."""
STEADY_BYTES = 64 * 1024**2
"""Free memory that grew by less than this since the last reading has stopped growing."""


async def wait_for_release(
    devices: DeviceInventory, ids: Collection[str], pids: Collection[int], clock: Clock
) -> bool:
    """Wait until no process of ``pids`` holds memory on ``ids`` and free memory stopped growing.

    The second condition also works where the driver hides processes (containers). Returns False
    if that did not happen within `DEADLINE_S`. Memory of a CPU device is free at once.
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
        held = any(process.pid in pids for device in found for process in device.processes or ())
        free = sum(device.free_bytes for device in found)
        if not held and before is not None and free - before < STEADY_BYTES:
            return True
        if clock.monotonic() >= deadline:
            return False
        before = free
        await clock.sleep(POLL_S)
