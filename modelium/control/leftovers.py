"""Leftovers of ingests that ended early, such as on a full disk: staged drops, parts of copies."""

from __future__ import annotations

import logging
from functools import partial

from modelium.stages.local_files import keeps_house
from modelium.stages.services import Services
from modelium.tasks import on_thread

logger = logging.getLogger(__name__)

LOOK_S = 30.0
"""Between two looks."""


class Leftovers:
    """Returns such drops to the drop zone, where they are taken in again; deletes the parts.

    It looks while no drop is being taken in, and none is as long as it looks.
    """

    def __init__(self, *, services: Services) -> None:
        """``services``: the repository, and who is at it."""
        self._services = services
        self._problem = ""

    async def run(self) -> None:
        """Look in intervals until cancelled; the start of the service has looked before."""
        while True:
            await self._services.clock.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Look once, unless a drop is being taken in."""
        services = self._services
        async with services.turns.alone() as alone:
            if not alone:
                return
            try:
                back = await on_thread(
                    partial(services.repository.recover, everywhere=keeps_house(services))
                )
            except OSError as exc:
                if str(exc) != self._problem:
                    logger.warning("what ingests have left cannot be cleared away: %s", exc)
                self._problem = str(exc)
                return
            self._problem = ""
        for path in back:
            logger.info("its ingest ended early, so it is taken in again: %s", path)
