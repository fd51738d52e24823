"""Keeps the background tasks alive: one that ends with an error is begun again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from modelium.stages.services import Services, Trouble

logger = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Before a task is begun again; doubles with each failure."""

LONGEST_PAUSE_S = 60.0

HEALTHY_S = 600.0
"""A task that has run for this long is well: its next failure is a first one."""


def current_troubles(services: Services) -> list[str]:
    """Return a sentence for each task or device that has failed within `HEALTHY_S`."""
    since = services.clock.monotonic() - HEALTHY_S
    return [trouble.sentence for trouble in services.troubles.values() if trouble.at > since]


async def supervise(services: Services, name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run ``run`` until cancelled, again after each error; its state is in `Services.troubles`.

    Args:
        services: the clock, and where failures are counted and shown.
        name: of the task, for people.
        run: returns only when there is nothing left to do.
    """
    clock, pause = services.clock, PAUSE_S
    while True:
        began = clock.monotonic()
        try:
            await run()
        except Exception as exc:
            if clock.monotonic() - began >= HEALTHY_S:
                pause = PAUSE_S
            logger.exception("the %s task failed, and is begun again in %g s", name, pause)
            services.telemetry.on_task_failed(name)
            what = str(exc) or type(exc).__name__
            services.troubles[name] = Trouble(
                at=clock.monotonic(),
                sentence=f"the {name} task failed and is begun again after a pause: {what}",
            )
        else:
            return
        await clock.sleep(pause)
        pause = min(LONGEST_PAUSE_S, 2 * pause)
