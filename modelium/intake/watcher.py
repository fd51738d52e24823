"""The drop zone's watcher: file events and rescans, debounced until a drop is quiet."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from modelium import analysis
from modelium.config import Ingest
from modelium.intake.fingerprint import Fingerprint, fingerprint
from modelium.intake.names import model_name
from modelium.intake.pending import PendingDrops
from modelium.models import Drop, DropState
from modelium.ports import Clock

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""Interval of `Watcher.poll`: how late the end of a quiet period may be noticed."""

READ_ONLY = frozenset({"opened", "closed_no_write"})
"""Events that change nothing. The watcher's own reading must not restart a quiet period."""


@dataclass(slots=True)
class _Drop:
    fingerprint: Fingerprint
    due: float
    """Monotonic seconds of the next check whether it is complete."""
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
    ) -> None:
        """Watch nothing yet.

        Args:
            folder: the drop zone.
            config: quiet period and intervals.
            clock: monotonic for periods, wall-clock for the age of files.
            pending: where arriving drops are noted, and those that are gone withdrawn.
            on_drop: gets the path of a drop and what it lacks, ``None`` where it is complete;
                it must return at once.
        """
        self._folder = folder
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
        """Watch until cancelled; a folder that cannot be listed is looked at again."""
        observer = self._observe()
        try:
            while True:
                try:
                    await self.poll()
                    self._problem = ""
                except OSError as exc:
                    if str(exc) != self._problem:
                        logger.warning("the drop zone cannot be looked at: %s", exc)
                    self._problem = str(exc)
                await self._clock.sleep(POLL_S)
        finally:
            if observer is not None:
                observer.stop()
                await asyncio.to_thread(observer.join)

    def _observe(self) -> BaseObserver | None:
        """Start to receive file events; ``None``: there are none, and rescans find all drops."""
        observer = Observer()
        handler = _EventHandler(folder=self._folder, on_change=self.touch)
        try:
            observer.schedule(handler, str(self._folder), recursive=True)
            observer.start()
        except OSError as exc:  # such as fs.inotify.max_user_watches
            logger.warning("drops are found by rescans alone, without file events: %s", exc)
            return None
        return observer

    def again(self, name: str) -> None:
        """Report the drop ``name`` once more, after the rescan interval: it could not be taken."""
        due = self._clock.monotonic() + self._config.rescan_interval_seconds
        self._not_before[name] = due  # it may be on its way back to the drop zone
        drop = self._drops.get(name)
        if drop is not None:
            drop.reported, drop.due = False, due

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
        for name in sorted(names):
            await self._check(name)
        for name, drop in list(self._drops.items()):
            await self._report(name, drop)

    async def _check(self, name: str) -> None:
        """Restart the quiet period of an entry that changed, and forget one that is gone."""
        if name.startswith("."):
            return
        path = self._folder / name
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
            self._pending.note(arriving(path, since=found.changed_at))

    async def _report(self, name: str, drop: _Drop) -> None:
        if drop.reported or self._clock.monotonic() < drop.due:
            return
        path = self._folder / name
        if await asyncio.to_thread(fingerprint, path) != drop.fingerprint:
            await self._check(name)
            return
        missing = await asyncio.to_thread(analysis.is_complete, path)
        if missing is None:
            drop.reported = True
            self._on_drop(path, None)
            return
        # What is missing may come without a change of the drop: a mount, a permission.
        drop.due = self._clock.monotonic() + max(
            self._config.quiet_period_seconds, self._config.rescan_interval_seconds
        )
        age_s = self._clock.time() - drop.fingerprint.changed_at
        give_up = age_s >= self._config.incomplete_after_seconds and not drop.given_up
        drop.given_up |= give_up
        if missing != drop.missing or give_up:
            drop.missing = missing
            self._on_drop(path, missing)


def arriving(path: Path, *, since: float) -> Drop:
    """Return the entry at ``path`` as a drop that is still being written."""
    return Drop(
        name=path.name,
        model=model_name(path),
        state=DropState.ARRIVING,
        path=str(path),
        since=since,
    )


class _EventHandler(FileSystemEventHandler):
    """Reports the top-level entry that an event happened in. Called on watchdog's thread."""

    def __init__(self, *, folder: Path, on_change: Callable[[str], None]) -> None:
        self._folder = folder
        self._on_change = on_change

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in READ_ONLY:
            return
        for raw in (event.src_path, event.dest_path):
            path = Path(os.fsdecode(raw)) if raw else None
            if path and path != self._folder and path.is_relative_to(self._folder):
                self._on_change(path.relative_to(self._folder).parts[0])
