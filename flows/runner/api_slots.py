"""Slots for talking to the Prefect server: a few runs at once, those that begin first."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar

YIELD_S = 1.0
"""How long a run that ends lets others begin first, at most: a stage waits for its run to begin,
and nothing waits for its end."""


class ApiSlots:
    """All slots of one process. Belongs to Prefect's event loop."""

    def __init__(self, count: int) -> None:
        """``count``: runs that may talk to the server at once."""
        self.free = asyncio.Semaphore(count)
        self.none_begins = asyncio.Event()
        self.none_begins.set()
        self._beginning = 0

    def count(self, change: int) -> None:
        """Note that one more run begins (1), or one less (-1)."""
        self._beginning += change
        if self._beginning:
            self.none_begins.clear()
        else:
            self.none_begins.set()


class ApiSlot:
    """The slot of one run: held while it begins and ends, released in between."""

    def __init__(self, slots: ApiSlots) -> None:
        """Entering it waits for one of ``slots``."""
        self._slots = slots
        self._begins = self._held = False

    async def __aenter__(self) -> ApiSlot:
        """Acquire a slot, for the run to begin."""
        self._begins = True
        self._slots.count(1)
        try:
            await self._acquire()
        except BaseException:
            self._mark_begun()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Release the slot: the run has ended, or could not begin."""
        self.pause()

    def pause(self) -> None:
        """Release the slot while the stage works."""
        self._mark_begun()
        if self._held:
            self._held = False
            self._slots.free.release()

    async def resume(self) -> None:
        """Acquire a slot again to record the end, after the runs that are about to begin."""
        with suppress(TimeoutError):
            async with asyncio.timeout(YIELD_S):
                await self._slots.none_begins.wait()
        await self._acquire()

    async def _acquire(self) -> None:
        await self._slots.free.acquire()
        self._held = True

    def _mark_begun(self) -> None:
        if self._begins:
            self._begins = False
            self._slots.count(-1)


current_slot: ContextVar[ApiSlot] = ContextVar("modelium_api_slot")
"""The slot of the flow run of this context."""
