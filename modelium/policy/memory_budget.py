"""How much memory of a device is still available: pure arithmetic for planner, policy, store."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.models import Booking, Device


def available_bytes(
    device: Device, bookings: Iterable[Booking], *, cap: float, after: Iterable[str] = ()
) -> int:
    """Return the bytes that a new booking on ``device`` may take; 0 on an unhealthy device.

    ``min(total·cap - booked, free - total·(1-cap) - Σ max(0, booked - held))``: the first
    term is the ledger's view, the second the driver's, which also counts foreign processes.
    The smaller one counts. A loaded model of which nobody can tell what it holds is taken to
    hold what was booked for it: counted as nothing, it would count twice.

    Args:
        device: as last measured.
        bookings: those on this device.
        cap: share of the device that models may take, 0…1.
        after: models that the plan unloads first; their bookings and the bytes they hold
            count as released.
    """
    if not device.healthy:
        return 0
    leaving = frozenset(after)
    booked = unfilled = returning = 0
    for booking in bookings:
        if booking.model in leaving:
            returning += booking.held_bytes
        else:
            booked += booking.bytes
            unfilled += max(0, booking.bytes - booking.held_bytes)
    margin = device.total_bytes * (1 - cap)
    by_ledger = device.total_bytes * cap - booked
    by_driver = device.free_bytes + returning - margin - unfilled
    return max(0, int(min(by_ledger, by_driver)))
