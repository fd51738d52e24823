"""An event loop whose time advances only while it is idle, so that timers are exact and instant.

For tests without I/O and threads: it advances to the next timer as soon as no callback is ready.
A test package selects it with a ``pytest_asyncio_loop_factories`` hook in its conftest.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 s."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = selectors.DefaultSelector()
        wait = selector.select

        def select(timeout: float | None = None) -> list[Any]:
            if timeout is None:  # no timer: only I/O can wake it
                return wait(None)
            events = wait(0)
            if not events:
                self._now += timeout
            return events

        selector.select = select  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._now
