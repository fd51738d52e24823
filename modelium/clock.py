"""The real clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """`ports.Clock` of the operating system."""

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` without blocking the event loop."""
        await asyncio.sleep(seconds)
