"""Ending what was interrupted or has failed: a load or an unload that nobody is at any more."""

from __future__ import annotations

import logging

from modelium.errors import ModeliumError, Unavailable
from modelium.lifecycle import ModelState
from modelium.models import Report
from modelium.stages.services import Services

logger = logging.getLogger(__name__)

INTERRUPTED = frozenset({ModelState.LOADING, ModelState.DRAINING, ModelState.UNLOADING})

GRACE_S = 5.0
"""For requests in flight: those of an earlier run of the service have lost their connection."""

RETRY_S = 30.0
"""Before a runtime that did not answer is asked again."""


async def settle(services: Services, name: str, *, why: str) -> None:
    """Clear the remains of an interrupted transition; an interrupted load is queued again.

    Raises:
        ModeliumError: the runtime does not unload it; its memory stays booked.
    """
    model = await services.store.find(name)
    if model is None or model.state not in INTERRUPTED:
        return
    if deployment := model.deployment:
        if deployment.runtime not in services.runtimes:
            raise Unavailable(f"{deployment.runtime.value} is not enabled in the configuration")
        await services.runtimes[deployment.runtime].unload(
            deployment.name, handle=deployment.handle, grace_s=GRACE_S
        )
    model = await services.store.model(name)  # its own run may have ended it meanwhile
    reason = f"{why} while {model.state}"
    if model.state is ModelState.LOADING:
        await services.store.requeue(name, reason=reason)
        return
    if model.state is ModelState.DRAINING:
        await services.store.start_unloading(name, reason=reason)
    if model.state in INTERRUPTED:
        await services.store.release(name, reason=reason, evicted=True)


async def settle_later(services: Services, name: str, *, why: str) -> Report:
    """`settle` as soon as the runtime answers again; a restart goes on with it."""

    async def insist() -> Report:
        told = ""
        while True:
            await services.clock.sleep(RETRY_S)
            try:
                await settle(services, name, why=why)
            except ModeliumError as exc:
                if str(exc) != told:
                    logger.warning("%s still holds its memory: %s", name, exc)
                told = str(exc)
            else:
                return Report(stage="evict", outcome="unloaded", model=name, reason=why)

    return await services.settling.join(name, insist)
