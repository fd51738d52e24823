"""A drop zone with its watcher, and a clock that a test moves."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from modelium.config import Ingest
from modelium.intake.drop_zone import DropZone
from modelium.intake.pending import PendingDrops
from modelium.intake.watcher import Watcher
from modelium.ports import Clock

QUIET_S = 5.0
RESCAN_S = 30.0
GIVE_UP_S = 3600.0


class ManualClock:
    """Advances only when a test moves it."""

    def __init__(self) -> None:
        self.now = time.time()  # files have the times of the real clock
        self.set_back_by = 0.0
        """How far somebody set the system's clock back, which the service's own does not follow."""

    def time(self) -> float:
        return self.now + self.set_back_by

    def system_time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Zone:
    """A drop zone with its watcher, and what the watcher reported."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        quiet_s: float = QUIET_S,
        rescan_s: float = RESCAN_S,
        teams: Iterable[str] = (),
        of: str = "",
        pending: PendingDrops | None = None,
    ) -> None:
        """``of``: the team whose folder is watched; empty: none, the drop zone itself is."""
        self.folder = folder
        self.zone = DropZone(folder=folder, teams=teams)
        self.reported: list[Path] = []
        """Complete ones."""
        self.lacking: list[tuple[str, str]] = []
        """Name and what is missing."""
        self.pending = pending or PendingDrops()
        self.watcher = Watcher(
            folder=folder / of,
            zone=self.zone,
            config=Ingest(
                quiet_period_seconds=quiet_s,
                rescan_interval_seconds=rescan_s,
                incomplete_after_seconds=GIVE_UP_S,
            ),
            clock=clock,
            pending=self.pending,
            on_drop=self._note,
        )

    def _note(self, path: Path, missing: str | None) -> None:
        if missing is None:
            self.reported.append(path)
        else:
            self.lacking.append((path.name, missing))
