"""Recovery at start: adopts what still runs, and settles what was interrupted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from modelium.control.abandoned import Abandoned
from modelium.errors import InputError, ModeliumError
from modelium.models import Model
from modelium.policy.backoff import LONGEST_PAUSE_S
from modelium.stages.failures import forgive_reconfigured
from modelium.stages.local_files import keeps_house
from modelium.stages.monitor import monitor
from modelium.stages.newcomers import resume
from modelium.stages.removal import remove_pending
from modelium.stages.services import Services
from modelium.stages.settling import converge
from modelium.stages.snapshot import snapshot
from modelium.stages.standing import apply_standings
from modelium.stages.switching import conclude
from modelium.stages.tidying import tidy

logger = logging.getLogger(__name__)

WHY = "interrupted by a restart"


async def take_up(services: Services) -> tuple[Model, ...]:
    """Read what requests are to be held for, before the gateway listens; return all models.

    Stages that an earlier run left are cleared away here, while no drop can be taken in yet.
    """
    await asyncio.to_thread(_clear, services)
    if not services.node:  # several go by their database's clock
        await services.store.clamp_times(longest_pause_s=LONGEST_PAUSE_S)
    services.sweeps.pause(await services.store.rules.idle_pause())
    services.switchboard.traffic.restore(await services.store.history.traffic())
    _revision, models, _bookings = await services.store.view()
    services.switchboard.know(await services.store.versions())
    return models


async def recover(services: Services, left: Iterable[Model] | None = None) -> None:
    """Adopt what still runs, settle what was interrupted, ingest newly allowed drops.

    Ready models are opened as soon as their runtime has them; no runtime delays another one's.

    Args:
        services: the ports and the store.
        left: what `take_up` returned, where it was called before anything was started.
    """
    began = services.clock.time()
    if left is None:
        left = await take_up(services)
    await apply_standings(services)
    await forgive_reconfigured(services)
    await converge(services, left, why=WHY, grace_s=0.0)
    await monitor(services)
    _revision, models, _bookings = await services.store.view()
    services.switchboard.know(await services.store.versions())
    resume(services, models, grace_s=0.0)
    await conclude(services, await snapshot(services), at_start=True)
    await remove_pending(services)
    await Abandoned(services=services).settle_earlier(before=began)
    await _tidy(services)
    if not keeps_house(services):
        return
    for path in await asyncio.to_thread(lambda: list(_readmit(services))):
        logger.info("ingesting again, since policy allows it now: %s", path)
        services.launcher.start(services.launcher.ingest(path=str(path)))


async def _tidy(services: Services) -> None:
    """Tidy up; a disk that does not let us stops no start, and the control loop tries again."""
    try:
        await tidy(services)
    except (ModeliumError, OSError) as exc:
        logger.warning("the repository could not be tidied up: %s", exc)


def _clear(services: Services) -> None:
    try:
        services.repository.recover(everywhere=keeps_house(services))
    except OSError as exc:
        logger.warning("what ingests have left cannot be cleared away: %s", exc)


def _readmit(services: Services) -> Iterator[Path]:
    """Yield refused drops that the policy allows now, moved to where they can be staged."""
    repository = services.repository
    policy = services.policy
    now_allowed = {"remote-code": policy.allow_remote_code, "pickle": policy.allow_pickle}
    try:
        refused = list(repository.rejected_drops())
    except OSError as exc:
        logger.warning("drops of an earlier run could not be looked at: %s", exc)
        return
    for folder, reason in refused:
        if reason.get("approvable") and now_allowed.get(str(reason.get("reason")), False):
            try:
                yield repository.readmit(folder)
            except (InputError, OSError) as exc:
                logger.warning("%s could not be taken in again: %s", folder, exc)
