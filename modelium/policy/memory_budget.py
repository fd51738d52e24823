"""How much memory of a device is still available: pure arithmetic for planner, policy, store."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

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
    return Budget.of(device, bookings, cap=cap, after=frozenset(after)).room()


@dataclass(frozen=True, slots=True)
class Budget:
    """The terms of `available_bytes` for one device, in bytes."""

    most: float
    """That models may take."""
    booked: int
    free: int
    """By the driver, with what leaves."""
    margin: float
    unfilled: int
    """Booked, and not held yet."""
    healthy: bool = True

    @classmethod
    def of(
        cls,
        device: Device,
        bookings: Iterable[Booking],
        *,
        cap: float,
        after: Collection[str] = frozenset(),
    ) -> Budget:
        """Return the terms for ``device``, as `available_bytes` reads its arguments."""
        booked = unfilled = returning = 0
        for booking in bookings:
            held = booking.held_bytes
            if booking.model in after:
                returning += held
            else:
                booked += booking.bytes
                unfilled += max(0, booking.bytes - held)
        return cls(
            most=device.total_bytes * cap,
            booked=booked,
            free=device.free_bytes + returning,
            margin=device.total_bytes * (1 - cap),
            unfilled=unfilled,
            healthy=device.healthy,
        )

    def room(self, booked: int = 0, held: int = 0, unfilled: int = 0) -> int:
        """Return the bytes that a new booking may take once bookings of these sums are gone."""
        if not self.healthy:
            return 0
        by_ledger = self.most - (self.booked - booked)
        by_driver = self.free + held - self.margin - (self.unfilled - unfilled)
        return max(0, int(min(by_ledger, by_driver)))
