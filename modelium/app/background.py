"""What runs beside the gateway: control loop, decisions on demand, watchers of folders and file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from modelium.control.acting import Acting
from modelium.control.adoption import Adoption
from modelium.control.answering import Answering
from modelium.control.demand import Demand
from modelium.control.drops import DropRun
from modelium.control.forwarding import Forwarding
from modelium.control.housekeeping import housekeeping
from modelium.control.leftovers import Leftovers
from modelium.control.loop import Loop
from modelium.control.membership import Membership
from modelium.control.reload import Reloader
from modelium.control.supervision import supervise
from modelium.intake.team_watchers import TeamWatchers
from modelium.intake.watcher import Watcher
from modelium.stages.services import Services


@asynccontextmanager
async def background(
    services: Services,
    loop: Loop,
    demand: Demand,
    reloader: Reloader,
    member: Membership | None = None,
) -> AsyncIterator[None]:
    """Run the loop, decisions on demand, and the watchers of folders and configuration.

    ``member``: of the nodes of a shared store; ``None``: there is one node.
    """
    zone = services.repository.zone
    teams = TeamWatchers(zone=zone, clock=services.clock, build=partial(_watcher, services))
    runs = {
        "loop": loop.run,
        "demand": demand.run,
        "watcher": housekeeping(services, _watcher(services, zone.folder).run),
        "teams": housekeeping(services, teams.run),
        "adoption": housekeeping(services, Adoption(services=services).run),
        "leftovers": Leftovers(services=services).run,
        "configuration": reloader.run,
    }
    if member is not None:
        runs |= {
            "heartbeat": member.run,
            "published traffic": member.publish,
            "answers": Answering(services=services).run,
            "orders": Acting(services=services).run,
            "routes": Forwarding(services=services).run,
        }
    tasks = [
        asyncio.create_task(supervise(services, name, run), name=name) for name, run in runs.items()
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _watcher(services: Services, folder: Path) -> Watcher:
    """Return a watcher of ``folder``, a part of the drop zone, whose drops are ingested."""
    watcher = Watcher(
        folder=folder,
        zone=services.repository.zone,
        config=services.config.ingest,
        clock=services.clock,
        pending=services.pending,
        on_drop=lambda path, missing: services.launcher.start(
            DropRun(
                run=services.launcher.ingest(path=str(path), missing=missing),
                again=partial(watcher.again, path.name),
            )
        ),
    )
    return watcher
