"""The order of devices that have room: idle before busy, then the fullest (pure)."""

from __future__ import annotations

from modelium.models import Device

SATURATED = 0.9
"""Utilization from which on a device has no time left for another model."""

EQUAL_ROOM = 0.05
"""Devices whose rooms differ by less than this share of their memory count as equally full."""

EQUAL_LOAD = 10
"""Steps of utilization that are told apart: less is chance, even over ten seconds."""

Order = tuple[bool, int, int, int, str]
"""Sort key of a device; the smaller is taken first."""


def saturated(device: Device) -> bool:
    """Whether ``device`` is busy nearly all the time; one that does not tell is not."""
    return device.utilization is not None and device.utilization >= SATURATED


def order(device: Device, room: int) -> Order:
    """Return the sort key of ``device`` with ``room`` free bytes.

    Best fit, which keeps large holes whole; but a saturated device comes last, and the busier of
    two equally full ones second.
    """
    step = max(1, int(device.total_bytes * EQUAL_ROOM))
    busy = int((device.utilization or 0.0) * EQUAL_LOAD)
    return (saturated(device), room // step, busy, room, device.id)
