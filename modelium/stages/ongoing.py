"""Work that is going on, by key: a second request for it joins the first (no I/O here)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from modelium.models import Report


@dataclass(kw_only=True, slots=True)
class _Work:
    task: asyncio.Task[Report]
    callers: int = 0


class Ongoing:
    """Runs at most one piece of work per key. Belongs to one event loop."""

    def __init__(self) -> None:
        """Start with none."""
        self._works: dict[str, _Work] = {}
        self._not_before: dict[str, float] = {}

    async def join(self, key: str, start: Callable[[], Coroutine[Any, Any, Report]]) -> Report:
        """Start the work of ``key``, or wait for that in progress; return its outcome.

        It is cancelled when its last caller is.
        """
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = _Work(task=asyncio.create_task(start()))
            work.task.add_done_callback(lambda _done: self._works.pop(key, None))
        work.callers += 1
        try:
            return await asyncio.shield(work.task)
        except asyncio.CancelledError:
            if work.callers == 1:
                work.task.cancel()
                await asyncio.wait({work.task})
            raise
        finally:
            work.callers -= 1

    def is_due(self, key: str, now: float) -> bool:
        """Whether the work of ``key`` may be started: it is not in progress, nor postponed."""
        return key not in self._works and self._not_before.get(key, now) <= now

    def postpone(self, key: str, until: float) -> None:
        """Have `is_due` refuse ``key`` until the monotonic instant ``until``."""
        self._not_before[key] = until
