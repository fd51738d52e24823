"""Wakes whoever waits for a change of the store (no I/O here)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from modelium.ports import Clock

POLL_S = 5.0
"""Between two looks where nothing wakes, as `Store.wakeups` does within a second of each change."""


class Pulse:
    """Beats when the store may have changed. Belongs to one event loop."""

    def __init__(self) -> None:
        """Nothing has changed yet."""
        self._next = asyncio.Event()

    def beat(self) -> None:
        """Wake all who wait now."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, clock: Clock, *, limit_s: float = POLL_S) -> None:
        """Wait for the next beat, at most for ``limit_s``."""
        beat = asyncio.ensure_future(self._next.wait())
        rest = asyncio.ensure_future(clock.sleep(limit_s))
        try:
            await asyncio.wait({beat, rest}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (beat, rest):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
