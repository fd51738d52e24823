"""One lock per device: an engine measures a GPU while it starts, so nothing else may change it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager


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
    async def hold(self, devices: Iterable[str]) -> AsyncIterator[None]:
        """Wait for the locks of all ``devices`` and hold them.

        They are acquired in a fixed order, so that two loads cannot deadlock.
        """
        async with AsyncExitStack() as stack:
            for device in sorted(set(devices)):
                await stack.enter_async_context(self._locks[device])
            yield
