"""The real clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """`ports.Clock` over the operating system."""

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
