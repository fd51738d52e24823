"""Tasks that one node at a time has, where several have the same folders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from modelium.stages.local_files import keeps_house
from modelium.stages.services import Services

LOOK_S = 2.5
"""Between two looks whether the house is this node's: as often as at the planner's lease."""


def housekeeping(
    services: Services, run: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    """Return what runs ``run`` for as long as this node keeps house, and again later."""

    async def keep() -> None:
        if not services.config.shares_files():
            return await run()
        while True:
            if keeps_house(services):
                await _while_kept(services, run)
            await services.clock.sleep(LOOK_S)

    return keep


async def _while_kept(services: Services, run: Callable[[], Awaitable[None]]) -> None:
    """Await ``run``; cancel it when another node keeps house. Raises what it raises."""
    task = asyncio.ensure_future(run())
    try:
        while keeps_house(services) and not task.done():
            pause = asyncio.ensure_future(services.clock.sleep(LOOK_S))
            await asyncio.wait({task, pause}, return_when=asyncio.FIRST_COMPLETED)
            pause.cancel()
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
