"""Who unloads idle models, and when: Prefect's schedule or, without it, the control loop (no I/O).

The schedule of the deployment ``evict/evict`` is the operator's switch and sets the pace. The
control loop relieves pressure and serves the queue at every tick in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelium.models import Trigger

DEFAULT_PACE_S = 60.0
"""Pace while Prefect does not answer and its schedule is not known to be an interval."""

SLACK_S = 60.0
"""Prefect is this late, beside one whole interval, before the loop sweeps in its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The schedule of idle sweeps, as Prefect has it."""

    paused_since: float | None = None
    """Epoch seconds; ``None``: it is active."""
    interval_s: float | None = None
    """``None``: a schedule of another kind (cron, rrule)."""


class Sweeps:
    """What is known of the schedule, and when idle models were last swept."""

    def __init__(self, *, scheduled: bool = False, now: float = 0.0) -> None:
        """Start without a schedule.

        Args:
            scheduled: Prefect is enabled, so that its schedule decides.
            now: monotonic seconds.
        """
        self.scheduled = scheduled
        self.paused_since: float | None = None
        """Since when idle models stay loaded (epoch seconds); ``None``: they are unloaded."""
        self._interval_s: float | None = None
        self._connected = False
        self._swept_at = now

    def follow(self, schedule: Schedule | None) -> None:
        """Take over what Prefect says now; ``None``: it does not answer.

        A pause and a pace that were known before Prefect went away still hold.
        """
        self._connected = schedule is not None
        if schedule is not None:
            self._interval_s = schedule.interval_s
            self.pause(schedule.paused_since)

    def pause(self, since: float | None) -> None:
        """Pause since ``since`` (epoch seconds), or resume with ``None``."""
        if since is None or self.paused_since is None:
            # Whole seconds, as they are stored.
            self.paused_since = float(int(since)) if since is not None and self.scheduled else None

    def note(self, now: float) -> None:
        """Note that idle models were swept at ``now`` (monotonic seconds)."""
        self._swept_at = now

    def trigger(self, now: float) -> Trigger:
        """Return what a tick of the control loop at ``now`` (monotonic seconds) is.

        A `Trigger.SWEEP` where the loop has to unload idle models itself: without Prefect, while
        Prefect is away, or where the runs that it schedules do not arrive.
        """
        return Trigger.SWEEP if self._is_due(now) else Trigger.UPKEEP

    def _is_due(self, now: float) -> bool:
        if not self.scheduled:
            return True
        if self.paused_since is not None:
            return False
        waited = now - self._swept_at
        if not self._connected:
            return waited >= (self._interval_s or DEFAULT_PACE_S)
        return self._interval_s is not None and waited >= 2 * self._interval_s + SLACK_S
