"""Waiting for what processes and servers do, instead of sleeping for a guessed time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")

DEADLINE_S = 120.0
"""Far more than anything here takes, even on a busy machine."""
POLL_S = 0.02


async def until(
    condition: Callable[[], Answer | Awaitable[Answer]], *, deadline_s: float = DEADLINE_S
) -> Answer:
    """Call ``condition`` until its answer is true, and return that.

    Raises:
        TimeoutError: it was not within ``deadline_s``.
    """
    async with asyncio.timeout(deadline_s):
        while True:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer  # type: ignore[return-value]
            await asyncio.sleep(POLL_S)
