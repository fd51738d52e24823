"""A clock for tests, satisfying `ports.Clock`: only the test makes its time pass."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading

START = 1_000_000.0
"""Initial time in seconds since the epoch. It is small, so that `TICK_S` is not lost in rounding."""

TICK_S = 1e-6
"""Time between two readings, so that the timestamps of successive rows are in order."""


class FakeClock:
    """Wall-clock and monotonic time, moved by `advance` and, while `hurried`, by `sleep`.

    Readings are safe from any thread; `sleep`, `advance` and `asleep` belong to one event loop.
    """

    def __init__(self, *, hurried: bool = True) -> None:
        """``hurried``: `sleep` advances the time and returns; otherwise it waits for `advance`."""
        self.hurried = hurried
        self.slept: list[float] = []
        """The length of each sleep so far, in seconds."""
        self._elapsed = 0.0
        self._set_by = 0.0
        self._reading = threading.Lock()
        self._order = itertools.count()
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []
        self._another = asyncio.Event()

    def time(self) -> float:
        """Return the seconds since the epoch; no two readings are the same."""
        with self._reading:
            self._elapsed += TICK_S
            return START + self._elapsed + self._set_by

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back by a negative number; nothing else passes."""
        self._set_by += seconds

    def system_time(self) -> float:
        """Return `time`, which `step` sets."""
        return self.time()

    def monotonic(self) -> float:
        """Return the seconds since the clock was created."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds`` of this clock's time."""
        self.slept.append(seconds)
        if self.hurried:
            self.advance(seconds)
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self._elapsed + seconds, next(self._order), woken))
        self._another.set()
        await woken

    def advance(self, seconds: float) -> None:
        """Advance the time by ``seconds`` and wake the sleeps that end by then."""
        with self._reading:
            self._elapsed += seconds
        while self._sleeping and self._sleeping[0][0] <= self._elapsed:
            _due, _order, woken = heapq.heappop(self._sleeping)
            if not woken.done():
                woken.set_result(None)

    async def asleep(self, count: int = 1) -> None:
        """Wait until at least ``count`` sleeps are in progress."""
        while sum(not woken.done() for _due, _order, woken in self._sleeping) < count:
            self._another.clear()
            await self._another.wait()
