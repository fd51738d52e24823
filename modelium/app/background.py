"""What runs beside the gateway: control loop, decisions on demand, watchers of folders and file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from modelium.control.adoption import Adoption
from modelium.control.demand import Demand
from modelium.control.loop import Loop
from modelium.control.reload import Reloader
from modelium.intake.watcher import Watcher
from modelium.stages.services import Services

logger = logging.getLogger(__name__)


@asynccontextmanager
async def background(
    services: Services, loop: Loop, demand: Demand, reloader: Reloader
) -> AsyncIterator[None]:
    """Run the loop, decisions on demand, and the watchers of folders and configuration."""
    watcher = Watcher(
        folder=services.config.orchestration.incoming_directory,
        config=services.config.ingest,
        clock=services.clock,
        pending=services.pending,
        on_drop=lambda path, missing: services.launcher.start(
            services.launcher.ingest(path=str(path), missing=missing)
        ),
    )
    tasks = [
        asyncio.create_task(loop.run(), name="loop"),
        asyncio.create_task(demand.run(), name="demand"),
        asyncio.create_task(watcher.run(), name="watcher"),
        asyncio.create_task(Adoption(services=services).run(), name="adoption"),
        asyncio.create_task(reloader.run(), name="configuration"),
    ]
    for task in tasks:
        task.add_done_callback(_on_end)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _on_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (failure := task.exception()):
        logger.critical("the %s task ended with an error: %r", task.get_name(), failure)
