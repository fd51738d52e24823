"""Turns on devices: engines measure a GPU while they start, so nobody else may change it then."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager


class DeviceTurns:
    """One lock per device. Share one instance between the drivers of a node.

    Concurrent starts on one GPU mis-size each other's KV cache, and memory that a neighbour
    frees meanwhile aborts a start (vllm#55827, #56830).
    """

    def __init__(self) -> None:
        """Start with every device free."""
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def taken(self, device: str) -> bool:
        """Whether somebody has ``device`` now."""
        return device in self._locks and self._locks[device].locked()

    @asynccontextmanager
    async def hold(self, devices: Iterable[str]) -> AsyncIterator[None]:
        """Wait for and hold all of ``devices``; their order is fixed, so nobody waits in a ring."""
        async with AsyncExitStack() as stack:
            for device in sorted(set(devices)):
                await stack.enter_async_context(self._locks[device])
            yield
