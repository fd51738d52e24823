"""The drop zone's watcher: file events and rescans, debounced until a drop is complete."""

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

from modelium import analysis
from modelium.config import Ingest
from modelium.ports import Clock

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""Interval of `Watcher.poll`: how late the end of a quiet period may be noticed."""

READ_ONLY = frozenset({"opened", "closed_no_write"})
"""Events that change nothing. The watcher's own reading must not restart a quiet period."""

Fingerprint = tuple[int, int, int]
"""Files and folders, their bytes, newest modification time (ns)."""


@dataclass(slots=True)
class _Drop:
    fingerprint: Fingerprint
    changed: float
    """Monotonic seconds of the last change, or of the last completeness check that failed."""
    reported: bool = False
    missing: str = ""


class Watcher:
    """Watches the entries of one folder, and reports each drop once it is complete.

    A drop is complete when nothing in it has changed for the configured quiet period and
    `modelium.analysis.is_complete` agrees. A drop that changes later is reported again.
    """

    def __init__(
        self, *, folder: Path, config: Ingest, clock: Clock, on_drop: Callable[[Path], None]
    ) -> None:
        """``on_drop`` gets the path of a complete drop; it must return at once."""
        self._folder = folder
        self._config = config
        self._clock = clock
        self._on_drop = on_drop
        self._drops: dict[str, _Drop] = {}
        self._touched: set[str] = set()
        self._lock = threading.Lock()
        self._scanned = float("-inf")

    async def run(self) -> None:
        """Watch until cancelled."""
        observer = Observer()
        handler = _EventHandler(folder=self._folder, on_change=self.touch)
        observer.schedule(handler, str(self._folder), recursive=True)
        observer.start()
        try:
            while True:
                await self.poll()
                await self._clock.sleep(POLL_S)
        finally:
            observer.stop()
            await asyncio.to_thread(observer.join)

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
        found = await asyncio.to_thread(fingerprint, self._folder / name)
        if found is None:
            self._drops.pop(name, None)
            return
        drop = self._drops.get(name)
        if drop is None or drop.fingerprint != found:
            self._drops[name] = _Drop(fingerprint=found, changed=self._clock.monotonic())

    async def _report(self, name: str, drop: _Drop) -> None:
        quiet_s = self._clock.monotonic() - drop.changed
        if drop.reported or quiet_s < self._config.quiet_period_seconds:
            return
        path = self._folder / name
        if await asyncio.to_thread(fingerprint, path) != drop.fingerprint:
            await self._check(name)
            return
        missing = await asyncio.to_thread(analysis.is_complete, path)
        if missing is None:
            drop.reported = True
            self._on_drop(path)
            return
        if missing != drop.missing:
            logger.info("%s is not complete yet: %s", name, missing)
        drop.missing = missing
        drop.changed = self._clock.monotonic()


def fingerprint(path: Path) -> Fingerprint | None:
    """Return what changes whenever a drop does; ``None``: the drop is gone."""
    try:
        own = path.lstat()
    except OSError:
        return None
    count, total, newest = 1, own.st_size, own.st_mtime_ns
    for directory, _folders, files in os.walk(path):
        for entry in (directory, *(os.path.join(directory, file) for file in files)):
            try:
                stat = os.lstat(entry)
            except OSError:
                continue
            count += 1
            total += stat.st_size
            newest = max(newest, stat.st_mtime_ns)
    return count, total, newest


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
