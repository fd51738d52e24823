"""Turns: work of one key goes one after the other (no I/O here)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets one task per key in at a time, in the order of asking. Belongs to one event loop."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._open = asyncio.Event()
        self._open.set()

    def is_free(self, key: str) -> bool:
        """Whether nobody has the turn of ``key``, or waits for it."""
        return key not in self._locks

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Wait for the turn of ``key``; have it while inside."""
        while not self._open.is_set():
            await self._open.wait()
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            _lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, users - 1

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """Have no turn begin while inside; yields whether nobody has one."""
        if self._locks or not self._open.is_set():
            yield False
            return
        self._open.clear()
        try:
            yield True
        finally:
            self._open.set()
