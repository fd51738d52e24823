"""Whose turn it is to talk to the Prefect server: a few runs at once, beginners first."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar

CALM_S = 1.0
"""How long a run that ends lets others begin first, at most: a stage waits for its begin, and
nobody for its end."""


class Turns:
    """All turns of one process. Belongs to Prefect's event loop."""

    def __init__(self, count: int) -> None:
        """``count`` runs at once."""
        self.slots = asyncio.Semaphore(count)
        self.beginning = 0
        self.calm = asyncio.Event()
        self.calm.set()

    def count(self, change: int) -> None:
        """One more run begins (1), or one less (-1)."""
        self.beginning += change
        if self.beginning:
            self.calm.clear()
        else:
            self.calm.set()


class Turn:
    """The turn of one run: held while it begins and ends, given to others in between."""

    def __init__(self, turns: Turns) -> None:
        """Of ``turns``; entering it waits for a slot."""
        self._turns = turns
        self._begins = self._held = False

    async def __aenter__(self) -> Turn:
        """Begin the run, as soon as there is a slot."""
        self._begins = True
        self._turns.count(1)
        try:
            await self._take()
        except BaseException:
            self._begun()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """The run has ended, or could not begin."""
        self._begun()
        self._give()

    def pause(self) -> None:
        """The run has begun; its stage works."""
        self._begun()
        self._give()

    async def resume(self) -> None:
        """The stage has ended; record it, after those that are about to begin."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CALM_S):
                await self._turns.calm.wait()
        await self._take()

    async def _take(self) -> None:
        await self._turns.slots.acquire()
        self._held = True

    def _give(self) -> None:
        if self._held:
            self._held = False
            self._turns.slots.release()

    def _begun(self) -> None:
        if self._begins:
            self._begins = False
            self._turns.count(-1)


turn: ContextVar[Turn] = ContextVar("modelium_turn")
"""That of the flow run of this context."""
