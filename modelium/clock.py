"""The real clocks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

STEP_S = 5.0
"""A difference between the two clocks that grew by more is a step, and told."""


def _since_boot() -> float:
    """Return seconds that pass while the machine is suspended, too, and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """`ports.Clock` of the operating system."""

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def system_time(self) -> float:
        """Seconds since the epoch by the clock that files are stamped with."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` without blocking the event loop."""
        await asyncio.sleep(seconds)


class SteadyClock(SystemClock):
    """One whose `time` is not moved when somebody sets the system's clock.

    It is the time of its creation plus what has passed since. Ages and due times are differences
    of it: with the system's clock, a step of a day would make every model idle for a day.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = _since_boot,
    ) -> None:
        """``wall``: seconds since the epoch; ``elapsed``: seconds that nobody can set."""
        self._wall = wall
        self._elapsed = elapsed
        self._base = wall() - elapsed()
        self._told = 0.0
        self._ahead = 0.0

    def follow(self, now: float) -> float:
        """Show ``now`` (epoch) from here on: the time of the database that nodes share.

        Files are still stamped by the system's clock. Returns how far that one is ahead of it, in
        seconds.
        """
        self._base, self._told = now - self._elapsed(), 0.0
        self._ahead = self._wall() - now
        return self._ahead

    def system_time(self) -> float:
        """Seconds since the epoch by the clock that files are stamped with."""
        return self._wall()

    def time(self) -> float:
        """Seconds since the epoch, UTC, as of the creation."""
        now = self._base + self._elapsed()
        off = self._wall() - self._ahead - now
        if abs(off - self._told) > STEP_S:
            logger.warning(
                "the system's clock was set %s by %.0f s; this service keeps its own time, "
                "without that, until it is restarted",
                "forward" if off > self._told else "back",
                abs(off - self._told),
            )
            self._told = off
        return now
