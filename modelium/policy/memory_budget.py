"""What may still be booked on a device: arithmetic alone, shared by planner, policy and store."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.models import Booking, Device


def available_bytes(
    device: Device, bookings: Iterable[Booking], *, cap: float, after: Iterable[str] = ()
) -> int:
    """Bytes that a new booking on ``device`` may take; 0 on an unhealthy device.

    ``min(total·cap - booked, free - total·(1-cap) - Σ max(0, booked - resident))``: the first
    term is the ledger's view, the second the driver's, which also sees foreign processes.
    Both must agree that the bytes are there.

    Args:
        device: as last measured.
        bookings: those on this device.
        cap: share of the device that models may take, 0…1.
        after: models whose eviction the plan promises first; their bookings and resident
            bytes count as given back.
    """
    if not device.healthy:
        return 0
    leaving = frozenset(after)
    booked = unfilled = returning = 0
    for booking in bookings:
        if booking.model in leaving:
            returning += booking.resident_bytes
        else:
            booked += booking.bytes
            unfilled += max(0, booking.bytes - booking.resident_bytes)
    margin = device.total_bytes * (1 - cap)
    by_ledger = device.total_bytes * cap - booked
    by_driver = device.free_bytes + returning - margin - unfilled
    return max(0, int(min(by_ledger, by_driver)))
