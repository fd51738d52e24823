"""The drop zone's watcher: file events and rescans, debounced until a drop is quiet."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelium import analysis
from modelium.analysis.readers.folder import shown
from modelium.config import Ingest
from modelium.intake.drop_zone import DropZone
from modelium.intake.file_events import FileEvents
from modelium.intake.fingerprint import Fingerprint, fingerprint
from modelium.intake.names import model_name
from modelium.intake.pending import PendingDrops
from modelium.models import Drop, DropState
from modelium.ports import Clock

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""Interval of `Watcher.poll`: how late the end of a quiet period may be noticed."""

MIN_LOOK_S = 1.0
"""Between two looks at an incomplete drop, at least."""

TEAM_FOLDER = "team-folder"
"""The rule of a note on a team's folder from which nothing is taken."""


@dataclass(slots=True)
class _Drop:
    fingerprint: Fingerprint
    due: float
    """Monotonic seconds of the next check whether it is complete."""
    look: float = float("inf")
    """Monotonic seconds of the next look whether an incomplete one has changed."""
    reported: bool = False
    missing: str = ""
    given_up: bool = False


class Watcher:
    """Watches the entries of one folder, and reports each drop once it is complete.

    A drop is complete when nothing in it has changed for the configured quiet period and
    `modelium.analysis.is_complete` agrees. One that is not is reported with what is missing:
    after the quiet period, whenever something else is missing, and when it is to be given up.
    A drop that changes later is reported again.
    """

    def __init__(
        self,
        *,
        folder: Path,
        config: Ingest,
        clock: Clock,
        pending: PendingDrops,
        on_drop: Callable[[Path, str | None], None],
        zone: DropZone | None = None,
    ) -> None:
        """Watch nothing yet.

        Args:
            folder: the drop zone.
            config: quiet period and intervals.
            clock: monotonic for periods, the system's for the age of files.
            pending: where arriving drops are noted, and those that are gone withdrawn.
            on_drop: gets the path of a drop and what it lacks, ``None`` where it is complete;
                it must return at once.
            zone: the drop zone that ``folder`` is a part of; default: ``folder`` is all of it.
        """
        self._folder = folder
        self._zone = zone or DropZone(folder=folder)
        self._config = config
        self._clock = clock
        self._pending = pending
        self._on_drop = on_drop
        self._drops: dict[str, _Drop] = {}
        self._touched: set[str] = set()
        self._lock = threading.Lock()
        self._scanned = float("-inf")
        self._not_before: dict[str, float] = {}
        self._problem = ""

    async def run(self) -> None:
        """Watch until cancelled; a folder that cannot be looked at is looked at again."""
        events = FileEvents(folder=self._folder, on_change=self.touch)
        try:
            while True:
                await asyncio.to_thread(events.keep, self._clock.monotonic())
                try:
                    await self.poll()
                    self._problem = ""
                except OSError as exc:
                    if str(exc) != self._problem:
                        logger.warning("the drop zone cannot be looked at: %s", exc)
                    self._problem = str(exc)
                await self._clock.sleep(POLL_S)
        finally:
            await asyncio.to_thread(events.stop)

    def again(self, name: str) -> None:
        """Report the drop ``name`` once more, after the rescan interval: it could not be taken."""
        due = self._clock.monotonic() + self._config.rescan_interval_seconds
        self._not_before[name] = due  # it may be on its way back to the drop zone
        drop = self._drops.get(name)
        if drop is not None:
            drop.reported, drop.due = False, due

    def forget(self) -> None:
        """Withdraw all notes on the folder and what lies in it: nobody watches it any more."""
        self._pending.withdraw(self._folder)
        for drop in self._noted():
            self._pending.withdraw(Path(drop.path))

    def touch(self, name: str) -> None:
        """Note that the entry ``name`` may have changed. May be called on any thread."""
        with self._lock:
            self._touched.add(name)

    async def poll(self) -> None:
        """Check the touched entries, all entries where a rescan is due, and report drops.

        The rescan finds what file events missed (network mounts, an overflowing queue).
        """
        now = self._clock.monotonic()
        with self._lock:
            names, self._touched = self._touched, set()
        if now - self._scanned >= self._config.rescan_interval_seconds:
            self._scanned = now
            names |= set(await asyncio.to_thread(os.listdir, self._folder))
            names |= set(self._drops)
            names |= {Path(drop.path).name for drop in self._noted()}  # by an ingest, too late
            if self._pending.at(self._folder) is not None:
                await self._is_closed()  # also where no drop is left to ask
        for name in sorted(names):
            with self._apart(name):
                await self._check(name)
        for name, drop in list(self._drops.items()):
            with self._apart(name):
                await self._report(name, drop)

    @contextmanager
    def _apart(self, name: str) -> Iterator[None]:
        """Keep an error that one entry causes from the others; it is looked at again."""
        try:
            yield
        except OSError:
            with self._lock:
                self._touched.add(name)
            raise
        except Exception:
            logger.exception("%s in the drop zone could not be looked at", shown(name))
            self.again(name)

    async def _check(self, name: str) -> None:
        """Restart the quiet period of an entry that changed, and forget one that is gone."""
        path = self._folder / name
        if name.startswith(".") or not self._zone.holds(path):
            self._drop_note(name)  # a team may have been declared since
            return
        why = await asyncio.to_thread(self._zone.orphaned, path)
        if why:
            self._drops.pop(name, None)
            self._note_closed(path, why)
            return
        found = await asyncio.to_thread(fingerprint, path)
        if found is None:
            self._drops.pop(name, None)
            self._pending.withdraw(path)
            return
        drop = self._drops.get(name)
        if drop is None or drop.fingerprint != found:
            due = self._clock.monotonic() + self._config.quiet_period_seconds
            due = max(due, self._not_before.pop(name, due))
            self._drops[name] = _Drop(fingerprint=found, due=due)
            quiet_s = self._config.quiet_period_seconds
            why = f"examined when none of its files has changed for {quiet_s:g} s"
            self._pending.note(arriving(path, since=found.changed_at, reason=why))

    async def _report(self, name: str, drop: _Drop) -> None:
        now, path = self._clock.monotonic(), self._folder / name
        if drop.reported:
            return
        if now < drop.due:
            if now >= drop.look:
                drop.look = now + max(self._config.quiet_period_seconds, MIN_LOOK_S)
                await self._check(name)
            return
        if await asyncio.to_thread(fingerprint, path) != drop.fingerprint:
            await self._check(name)
            return
        if await self._is_closed():
            drop.due = now + self._config.rescan_interval_seconds
            return
        missing = await asyncio.to_thread(analysis.is_complete, path)
        if missing is None:
            drop.reported = True
            self._on_drop(path, None)
            return
        # What is missing may come without a change of the drop: a mount, a permission.
        now, quiet_s = self._clock.monotonic(), self._config.quiet_period_seconds
        drop.due = now + max(quiet_s, self._config.rescan_interval_seconds)
        drop.look = now + max(quiet_s, MIN_LOOK_S)
        age_s = self._clock.system_time() - drop.fingerprint.changed_at
        give_up = age_s >= self._config.incomplete_after_seconds and not drop.given_up
        drop.given_up |= give_up
        if missing != drop.missing or give_up:
            drop.missing = missing
            self._on_drop(path, missing)

    async def _is_closed(self) -> bool:
        """Whether nothing is taken from this folder; what to do then is noted as of a drop."""
        why = await asyncio.to_thread(self._zone.closed, self._folder)
        if why:
            self._note_closed(self._folder, why)
        else:
            self._pending.withdraw(self._folder)
        return bool(why)

    def _note_closed(self, folder: Path, why: str) -> None:
        """Note once that nothing is taken from a team's ``folder``, and what to do."""
        known = self._pending.at(folder)
        if known is None or known.reason != why:
            closed = arriving(folder, since=self._clock.time()).model_copy(
                update={"state": DropState.INCOMPLETE, "rule": TEAM_FOLDER, "reason": why}
            )
            self._pending.note(closed)
            logger.warning("%s", why)

    def _drop_note(self, name: str) -> None:
        """Forget a drop whose place is none for drops now; its team's watcher has its own notes."""
        path = self._folder / name
        known = self._pending.at(path)
        if self._drops.pop(name, None) and known is not None and known.rule != TEAM_FOLDER:
            self._pending.withdraw(path)

    def _noted(self) -> list[Drop]:
        """Return what is noted of entries of this folder."""
        return [drop for drop in self._pending.all() if Path(drop.path).parent == self._folder]


def arriving(path: Path, *, since: float, reason: str = "") -> Drop:
    """Return the entry at ``path`` as a drop that is still being written, with why it waits."""
    return Drop(
        name=path.name,
        model=model_name(path),
        state=DropState.ARRIVING,
        path=str(path),
        since=since,
        reason=reason,
    )
