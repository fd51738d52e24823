"""The control loop's last sweep, for whoever records it (no I/O here)."""

from __future__ import annotations

from dataclasses import dataclass

from modelium.models import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """One pass of the control loop over the fleet."""

    at: float
    """Monotonic seconds."""
    report: Report
    """Of the decide stage."""


class Sweeps:
    """Remembers the last sweep."""

    def __init__(self) -> None:
        """Start with none."""
        self._last: Sweep | None = None

    def note(self, sweep: Sweep) -> None:
        """Remember ``sweep``."""
        self._last = sweep

    def since(self, instant: float) -> Report | None:
        """Return the report of the last sweep, ``None`` where it is older than ``instant``."""
        last = self._last
        return last.report if last is not None and last.at >= instant else None
