"""What a load takes of its GPUs and an unload gives back, by the GPUs' own free memory.

The driver's list of processes is more exact, but containers, WSL2 and servers that hold many models
in one process have none that could be used. A GPU's memory changes for other reasons too; a
difference is used only where no other load or unload touched the GPU meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from modelium.models import Booking, Deployment, Device
from modelium.models.runtimes import RUNTIMES
from modelium.ports import DeviceInventory

KEPT_BYTES = 256 * 1024**2
"""Memory that does not come back from an unload is named from here on: below it is noise."""


@dataclass(kw_only=True)
class Activity:
    """One load or unload in progress."""

    devices: frozenset[str]
    alone: bool = True
    """No other one has touched its devices since it began."""


class DeviceActivity:
    """The loads and unloads in progress, by the devices whose memory they change."""

    def __init__(self) -> None:
        """Begin with none."""
        self._running: list[Activity] = []

    @contextmanager
    def on(self, devices: Iterable[str]) -> Iterator[Activity]:
        """Hold while a load or an unload on ``devices`` runs."""
        ours = Activity(devices=frozenset(devices))
        for other in self._running:
            if other.devices & ours.devices:
                other.alone = ours.alone = False
        self._running.append(ours)
        try:
            yield ours
        finally:
            self._running.remove(ours)


async def free_bytes(inventory: DeviceInventory, ids: Iterable[str]) -> dict[str, int]:
    """Return the free bytes of those GPUs that can be read."""
    wanted = frozenset(ids)
    return {
        device.id: device.free_bytes
        for device in await asyncio.to_thread(inventory.snapshot)
        if device.id in wanted and _is_readable(device)
    }


def taken(
    deployment: Deployment,
    reserve: Mapping[str, int],
    before: Mapping[str, int],
    after: Mapping[str, int],
) -> dict[tuple[str, str], int]:
    """Return what the load took, by model and device; without those that took nothing.

    A server that holds many models starts backends for the first one, and keeps them: what it
    took beyond the model's booking is its own.
    """
    found = {}
    for device in deployment.devices:
        bytes_ = before.get(device, 0) - after.get(device, before.get(device, 0))
        if RUNTIMES[deployment.runtime].shares_process:
            bytes_ = min(bytes_, reserve.get(device, 0))
        if bytes_ > 0:
            found[deployment.model, device] = bytes_
    return found


def kept(
    bookings: Iterable[Booking], before: Mapping[str, int], after: Mapping[str, int]
) -> dict[str, int]:
    """Return device → bytes that a model was known to hold and that did not come back."""
    found = {}
    for booking in bookings:
        device = booking.device
        if booking.resident_bytes is None or device not in before or device not in after:
            continue
        missing = booking.resident_bytes - (after[device] - before[device])
        if missing >= KEPT_BYTES:
            found[device] = missing
    return found


def _is_readable(device: Device) -> bool:
    return device.kind == "gpu" and device.healthy and device.total_bytes > 0
