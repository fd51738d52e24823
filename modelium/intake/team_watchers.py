"""One watcher for each team's folder in the drop zone, as teams are declared and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from modelium.intake.drop_zone import DropZone
from modelium.intake.watcher import Watcher
from modelium.ports import Clock

LOOK_S = 1.0
"""How late a team that a reload declares is noticed."""


class TeamWatchers:
    """Watches the folders of the declared teams."""

    def __init__(self, *, zone: DropZone, clock: Clock, build: Callable[[Path], Watcher]) -> None:
        """``build``: returns the watcher of a folder."""
        self._zone = zone
        self._clock = clock
        self._build = build

    async def run(self) -> None:
        """Watch until cancelled; raises what a watcher raises."""
        tasks: dict[str, asyncio.Task[None]] = {}
        watchers: dict[str, Watcher] = {}
        try:
            while True:
                await asyncio.to_thread(self._zone.make)
                teams = self._zone.teams
                for team in sorted(teams - tasks.keys()):
                    watchers[team] = self._build(self._zone.team_folder(team))
                    run = watchers[team].run()
                    tasks[team] = asyncio.create_task(run, name=f"watcher of {team}")
                for team in sorted(tasks.keys() - teams):
                    tasks.pop(team).cancel()
                    watchers.pop(team).forget()
                for task in tasks.values():
                    if task.done():
                        task.result()
                await self._clock.sleep(LOOK_S)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
