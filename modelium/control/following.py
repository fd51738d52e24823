"""What is done again whenever the store changes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from modelium.errors import ModeliumError
from modelium.stages.services import Services

logger = logging.getLogger(__name__)


async def at_each_change(
    services: Services, step: Callable[[], Awaitable[None]], *, failing: str
) -> None:
    """Take ``step`` now and at each change of the store, until cancelled.

    ``failing``: begins the warning where a step fails, which the next one makes up for.
    """
    while True:
        try:
            await step()
        except ModeliumError as exc:
            logger.warning("%s: %s", failing, exc)
        await services.pulse.wait(services.clock)
