"""Recovery at start: adopts what still runs, and settles what was interrupted."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from modelium.lifecycle import ModelState
from modelium.models import Model, Trigger
from modelium.stages.monitor import monitor
from modelium.stages.opening import open_model
from modelium.stages.removal import remove_pending
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot
from modelium.stages.standing import apply_standings
from modelium.stages.switching import conclude
from modelium.stages.tidying import tidy

logger = logging.getLogger(__name__)

INTERRUPTED = frozenset({ModelState.LOADING, ModelState.DRAINING, ModelState.UNLOADING})


async def recover(services: Services) -> None:
    """Adopt what still runs, settle what was interrupted, ingest newly allowed drops."""
    services.sweeps.pause(await services.store.rules.idle_pause())
    await apply_standings(services)
    services.switchboard.traffic.restore(await services.store.history.traffic())
    await monitor(services)
    _revision, models, _bookings = await services.store.view()
    services.switchboard.know(await services.store.versions())
    for model in models:
        if model.state in INTERRUPTED:
            await _settle(services, model)
        elif model.removal is not None or model.twin_of is not None:
            continue  # goes on below
        elif model.state is ModelState.READY and model.deployment:
            open_model(services, model, model.deployment)
        elif model.state is ModelState.INGESTED:
            services.launcher.start(services.launcher.analyze(model=model.name))
        elif model.state is ModelState.ANALYZED:
            services.launcher.start(
                services.launcher.decide(model=model.name, trigger=Trigger.INGEST)
            )
    await conclude(services, await snapshot(services), at_start=True)
    await remove_pending(services)
    await tidy(services)
    for path in await asyncio.to_thread(_readmit, services):
        logger.info("ingesting again, since policy allows it now: %s", path)
        services.launcher.start(services.launcher.ingest(path=str(path)))


async def _settle(services: Services, model: Model) -> None:
    """Clear the remains of an interrupted transition; an interrupted load is queued again."""
    deployment = model.deployment
    if deployment:
        await services.runtimes[deployment.runtime].unload(
            deployment.name, handle=deployment.handle, grace_s=5.0
        )
    reason = f"interrupted by a restart while {model.state}"
    if model.state is ModelState.LOADING:
        await services.store.requeue(model.name, reason=reason)
        return
    if model.state is ModelState.DRAINING:
        await services.store.start_unloading(model.name, reason=reason)
    await services.store.release(model.name, reason=reason, evicted=True)


def _readmit(services: Services) -> list[Path]:
    """Return refused drops that the policy allows now, moved to where they can be staged."""
    repository = services.repository
    repository.recover()
    policy = services.policy
    now_allowed = {"remote-code": policy.allow_remote_code, "pickle": policy.allow_pickle}
    return [
        repository.readmit(folder)
        for folder, reason in list(repository.rejected_drops())
        if reason.get("approvable") and now_allowed.get(str(reason.get("reason")), False)
    ]
