"""Background tasks: held until they are done, and cancelled together at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


async def on_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work``, which blocks, on a thread; a cancellation is raised once it has ended.

    So whoever has a turn or a lock meanwhile keeps it for as long as the thread is at work.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled() and (failure := running.exception()) is not None:
            logger.info("what was cancelled failed as well: %r", failure)
        raise


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
