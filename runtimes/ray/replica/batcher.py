"""Batches requests that arrive at nearly the same time.

Serve's own `@serve.batch` does the same, but only inside a running replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Batcher(Generic[Item, Outcome]):
    """Runs up to ``size`` items at once; no item waits longer than ``wait_s`` for others."""

    def __init__(
        self,
        *,
        run: Callable[[list[Item]], Awaitable[list[Outcome]]],
        size: int,
        wait_s: float,
    ) -> None:
        """``run`` returns one outcome per item, in order; what it raises, every `put` raises."""
        self._run = run
        self._size = size
        self._wait_s = wait_s
        self._waiting: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def put(self, item: Item) -> Outcome:
        """Run ``item`` in a batch and return its outcome."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._size:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._flush)
        return await future

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Items whose caller has gone are left out.
        batch = [(item, future) for item, future in self._waiting if not future.done()]
        self._waiting = []
        if batch:
            task = asyncio.create_task(self._finish(batch))
            self._running.add(task)  # the event loop keeps weak references only
            task.add_done_callback(self._running.discard)

    async def _finish(self, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        try:
            outcomes = await self._run([item for item, _ in batch])
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)
        except Exception as exc:
            for _, future in batch:
                if not future.done():
                    future.set_exception(exc)
