"""Removal of a model: unload it, forget it, move its files. Safe to interrupt and to repeat.

`modelium.store.lineage` holds the request: from then on no plan loads the model, and the
gateway does not know it. The files move once the store has forgotten the model.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from contextlib import suppress

from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Deployment, Model, Report, Version
from modelium.policy import PlanRejected
from modelium.stages.fetching import drop_removed
from modelium.stages.local_files import local_path
from modelium.stages.locality import is_here
from modelium.stages.services import Services
from modelium.stages.tidying import move_removed
from modelium.stages.unloading import call_unload

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""Between two looks at a model that another run loads or unloads."""

RETRY_S = 30.0
"""Before a removal that failed is tried again: its runtime may be restarting."""


async def remove(services: Services, *, model: str) -> Report:
    """Carry out the removal that the store holds for ``model``; joins one in progress.

    Raises:
        ModeliumError: its runtime does not unload it; the control loop tries again.
    """
    return await services.removing.join(model, lambda: _remove(services, model))


async def _remove(services: Services, name: str) -> Report:
    store = services.store
    record = await store.find(name)
    while record is not None and record.removal is not None and not store.plans:
        services.switchboard.close(name)
        await services.pulse.wait(services.clock)  # the node that plans removes it
        record = await store.find(name)
    if record is None or record.removal is None:
        return Report(stage="evict", outcome="nothing", model=name, reason="it is not registered")
    removal = record.removal
    services.switchboard.close(name)
    services.switchboard.know(await store.versions())
    _revision, models, _bookings = await store.view()
    for twin in models:
        if twin.twin_of == name:
            await _unload(services, twin.name)
            await store.twins.drop(twin.name)
    await _unload(services, name)
    gone = await store.lineage.finish_removal(name)
    services.switchboard.know(await store.versions())
    services.switchboard.traffic.forget(name)
    await move_removed(services)
    await drop_removed(services)
    versions = [version.version for version in gone]
    await store.events.append(
        "model.removed", model=name, by=removal.by, versions=versions, purge=removal.purge
    )
    where = "deleted" if removal.purge else f"moved to {services.repository.trash.folder}"
    if await asyncio.to_thread(_are_left, services, gone):
        where = f"not {where.split()[0]} yet: see the log; that is tried again every hour"
    return Report(
        stage="evict",
        outcome="removed",
        model=name,
        reason=f"its files were {where}",
        details={"versions": versions},
    )


def _are_left(services: Services, gone: Iterable[Version]) -> bool:
    return any(os.path.lexists(local_path(services, version)) for version in gone)


async def _unload(services: Services, name: str) -> None:
    """Wait until ``name`` holds no memory and no process."""
    while True:
        record = await services.store.model(name)
        deployment = record.deployment
        if record.state in SETTLED:
            if deployment is None:
                return
            if not is_here(services, deployment):
                await services.store.states.order_unloading(name, reason=record.reason)
                continue
            await _halt(services, record, deployment)
        elif record.state is ModelState.LOADING and not is_here(services, deployment):
            await services.store.states.order_unloading(name, reason=record.reason)
        elif record.state is ModelState.LOADING and deployment is not None:
            # The driver cancels a load in progress; the run that waits for it gives up.
            with suppress(PlanRejected):  # it became ready a moment ago: that is evicted next
                await call_unload(services, deployment, grace_s=0.0)
        elif record.state in (ModelState.READY, ModelState.SLEEPING):
            await services.launcher.evict(models=[name], reason=record.reason)
        await services.clock.sleep(POLL_S)


async def _halt(services: Services, record: Model, deployment: Deployment) -> None:
    """Unload what a failed model still runs: its last good version."""
    with services.owners.of(record.name):
        await services.store.states.start_unloading(record.name, reason=record.reason)
        grace_s = services.config.gateway.drain_grace_seconds
        await call_unload(services, deployment, grace_s=grace_s)
        await services.store.states.release(record.name, reason=record.reason, evicted=False)


async def remove_pending(services: Services) -> None:
    """Start the removals that the store holds and nobody is at."""
    if not services.store.plans:
        return
    _revision, models, _bookings = await services.store.view()
    for model in models:
        if (
            model.removal is not None
            and model.twin_of is None
            and services.removing.is_due(model.name, services.clock.monotonic())
        ):
            services.launcher.start(_retried(services, model.name))


async def _retried(services: Services, name: str) -> Report:
    try:
        return await remove(services, model=name)
    except Exception:
        services.removing.postpone(name, services.clock.monotonic() + RETRY_S)
        raise
