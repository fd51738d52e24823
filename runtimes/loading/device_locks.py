"""One lock per device: an engine measures a GPU while it starts, so nothing else may change it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

CPU_ID_SUFFIX = "/cpu"
"""What the id of a CPU device ends with."""


class DeviceLocks:
    """Serializes starts and unloads on each device. Share one instance between all drivers.

    Concurrent starts on one GPU mis-size each other's KV cache, and memory that another engine
    frees in the meantime aborts a start (vllm#55827, #56830).
    """

    def __init__(self) -> None:
        """Start with every device unlocked."""
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def locked(self, device: str) -> bool:
        """Whether ``device`` is locked now."""
        return device in self._locks and self._locks[device].locked()

    @asynccontextmanager
    async def hold(self, devices: Iterable[str]) -> AsyncIterator[Turn]:
        """Wait for the locks of all ``devices`` and hold them until the end, or of the turn's.

        They are acquired in a fixed order, so that two loads cannot deadlock. A CPU has no turns:
        nothing measures what is free there.
        """
        turn = Turn()
        try:
            for device in sorted(set(devices)):
                if not device.endswith(CPU_ID_SUFFIX):
                    await turn.add(self._locks[device])
            yield turn
        finally:
            turn.end()


class Turn:
    """The locks that one load or unload holds."""

    def __init__(self) -> None:
        """Start with none."""
        self._held: list[asyncio.Lock] = []

    async def add(self, lock: asyncio.Lock) -> None:
        """Wait for ``lock`` and hold it."""
        await lock.acquire()
        self._held.append(lock)

    def end(self) -> None:
        """Let the next one have the devices; a second call does nothing."""
        while self._held:
            self._held.pop().release()
