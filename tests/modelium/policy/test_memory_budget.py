from __future__ import annotations

import pytest

from modelium.models import GIB, Booking, Device
from modelium.policy.memory_budget import available_bytes


def device(*, free: float = 80, healthy: bool = True) -> Device:
    return Device(
        node="n",
        uuid="g0",
        kind="gpu",
        total_bytes=80 * GIB,
        free_bytes=int(free * GIB),
        healthy=healthy,
    )


def booking(model: str, gib: float, resident: float | None) -> Booking:
    return Booking(
        model=model,
        device="n/g0",
        bytes=int(gib * GIB),
        resident_bytes=None if resident is None else int(resident * GIB),
    )


@pytest.mark.parametrize(
    ("free", "bookings", "after", "expected"),
    [
        # An empty device offers its cap: 0.75 × 80.
        (80, [], [], 60),
        # The ledger's view: booked and resident bytes are the same bytes.
        (60, [booking("a", 20, 20)], [], 40),
        # A load in progress: what it booked but has not filled is not available.
        (75, [booking("a", 20, 5)], [], 40),
        # The driver's view: 30 GiB of other processes.
        (50, [], [], 30),
        # A model that holds more than it booked.
        (40, [booking("a", 20, 40)], [], 20),
        # Bytes of models that leave first are available: all of them, booked or resident.
        (60, [booking("a", 20, 20)], ["a"], 60),
        (60, [booking("a", 20, 20)], ["b"], 40),
        (40, [booking("a", 20, 40)], ["a"], 60),
        # Nobody can tell what a loaded model holds: once, not twice what was booked for it …
        (60, [booking("a", 20, None)], [], 40),
        # … and it comes back when the model leaves.
        (60, [booking("a", 20, None)], ["a"], 60),
        # Memory of other processes is respected all the same.
        (30, [booking("a", 20, None)], [], 10),
        # Nothing left.
        (5, [booking("a", 60, 60)], [], 0),
        (20, [booking("a", 70, 60)], [], 0),
    ],
)
def test_available_bytes(
    free: float, bookings: list[Booking], after: list[str], expected: float
) -> None:
    found = available_bytes(device(free=free), bookings, cap=0.75, after=after)
    assert found == expected * GIB


def test_unhealthy_device_has_nothing_available() -> None:
    assert available_bytes(device(healthy=False), [], cap=0.75) == 0


def test_memory_counts_once_where_processes_are_hidden() -> None:
    card = device().model_copy(
        update={"total_bytes": int(23.5 * GIB), "free_bytes": int(15.5 * GIB)}
    )
    eight = [booking("a", 8, None)]
    assert available_bytes(card, eight, cap=0.9) / GIB == pytest.approx(13.15)
    full = card.model_copy(update={"free_bytes": int(3.5 * GIB)})
    twenty = [booking("a", 20, None)]
    gained = available_bytes(full, twenty, cap=0.9, after=["a"]) - available_bytes(
        full, twenty, cap=0.9
    )
    assert gained / GIB == pytest.approx(20)
