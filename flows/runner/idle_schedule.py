"""The schedule of ``evict/evict`` on a Prefect server: the operator's switch for idle evictions."""

from __future__ import annotations

import time
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule

from modelium.stages.sweeps import Schedule


async def read(client: PrefectClient, deployment: UUID) -> Schedule:
    """Return what the schedules of ``deployment`` say now."""
    return schedule_of(await client.read_deployment(deployment), now=time.time())


def schedule_of(deployment: DeploymentResponse, *, now: float) -> Schedule:
    """Return what its schedules say.

    It is paused where the deployment is, or where none of its schedules is active; deleting the
    schedules pauses it, too. ``now``: epoch seconds, the instant of a pause that has none.
    """
    active = [schedule for schedule in deployment.schedules if schedule.active]
    if active and not deployment.paused:
        gaps = [
            schedule.schedule.interval.total_seconds()
            for schedule in active
            if isinstance(schedule.schedule, IntervalSchedule)
        ]
        # A schedule of another kind may be rarer than the intervals, but sweeps no less often.
        return Schedule(interval_s=min(gaps, default=None))
    changed = [s.updated for s in deployment.schedules if s.updated and not s.active]
    since = max(changed).timestamp() if changed and not deployment.paused else now
    return Schedule(paused_since=since)
