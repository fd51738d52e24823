"""Background tasks: held until they are done, and cancelled together at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class BackgroundTasks:
    """Tasks that nobody awaits. asyncio itself keeps only weak references to tasks."""

    def __init__(self) -> None:
        """Start with none."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, name: str = "") -> asyncio.Task[None]:
        """Run ``work`` in the background; it handles its own errors."""
        task = asyncio.create_task(work, name=name or None)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait(self, *, timeout_s: float) -> None:
        """Wait until all tasks that run now are done, up to ``timeout_s``."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout_s)

    async def aclose(self) -> None:
        """Cancel all tasks and wait until they have cleaned up."""
        pending = tuple(self._tasks)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
