"""A clock for tests: time passes only when code sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class FakeClock:
    """`modelium.ports.Clock` whose sleeps return at once and move time forward."""

    def __init__(self, on_sleep: Callable[[], None] = lambda: None) -> None:
        """``on_sleep`` is called with every sleep."""
        self.now = 1000.0
        self._on_sleep = on_sleep

    def time(self) -> float:
        return self.now

    def system_time(self) -> float:
        return self.time()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._on_sleep()
        await asyncio.sleep(0)
