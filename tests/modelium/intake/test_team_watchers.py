"""Each declared team's folder has a watcher, for as long as the team is declared."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from modelium.config import Ingest
from modelium.intake.drop_zone import DropZone
from modelium.intake.pending import PendingDrops
from modelium.intake.team_watchers import LOOK_S, TeamWatchers
from modelium.intake.watcher import Watcher, arriving
from modelium.models import Drop
from tests.fakes.clock import FakeClock


class Watchers:
    """Team watchers on a clock that a test moves, and which folders they began to watch."""

    def __init__(self, folder: Path, *teams: str) -> None:
        self.clock = FakeClock(hurried=False)
        self.zone = DropZone(folder=folder, teams=teams)
        self.pending = PendingDrops()
        self.begun: list[str] = []
        self.running: set[str] = set()
        self.fails = False
        self.watchers = TeamWatchers(zone=self.zone, clock=self.clock, build=self._build)

    def _build(self, folder: Path) -> Watcher:
        self.begun.append(folder.name)
        outer = self

        class Noted(Watcher):
            async def run(self) -> None:
                outer.running.add(folder.name)
                try:
                    if outer.fails:
                        raise ValueError("a bug")
                    await asyncio.Event().wait()
                finally:
                    outer.running.discard(folder.name)

        return Noted(
            folder=folder,
            config=Ingest(),
            clock=self.clock,
            pending=self.pending,
            on_drop=lambda path, missing: None,
        )

    def note(self, path: Path) -> Drop:
        """Note a drop at ``path``."""
        drop = arriving(path, since=1.0)
        self.pending.note(drop)
        return drop

    async def look(self) -> None:
        """Wait until the watchers have looked at the declared teams once more."""
        await self.clock.asleep()
        self.clock.advance(LOOK_S)
        await self.clock.asleep()


async def test_teams_are_watched_from_their_declaration_on(tmp_path: Path) -> None:
    it = Watchers(tmp_path, "lab", "prod")
    task = asyncio.create_task(it.watchers.run())
    await it.look()
    assert it.begun == ["lab", "prod"] and it.running == {"lab", "prod"}
    assert sorted(os.listdir(tmp_path)) == ["lab", "prod"]
    left = it.note(tmp_path / "prod"), it.note(tmp_path / "prod" / "m")
    kept = it.note(tmp_path / "lab"), it.note(tmp_path / "lab" / "m"), it.note(tmp_path / "m")
    assert set(it.pending.all()) == {*left, *kept}
    it.zone.declare(["lab", "new"])
    shutil.rmtree(tmp_path / "lab")
    await it.look()
    assert it.begun == ["lab", "prod", "new"] and it.running == {"lab", "new"}
    assert (tmp_path / "lab").is_dir(), "a folder that was removed is made again"
    assert (tmp_path / "prod").is_dir(), "one that is no longer a team's stays"
    assert set(it.pending.all()) == set(kept), "nobody looks at what lies in it"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert it.running == set()


async def test_what_ends_a_watcher_is_raised(tmp_path: Path) -> None:
    it = Watchers(tmp_path, "lab")
    it.fails = True
    task = asyncio.create_task(it.watchers.run())
    await it.clock.asleep()
    it.clock.advance(LOOK_S)
    with pytest.raises(ValueError, match="a bug"):
        await task
