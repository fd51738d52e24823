"""The drop zone: file events and rescans, turned into ingests once a drop is complete."""

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
"""How exactly the end of a quiet period is met."""

READ_ONLY = frozenset({"opened", "closed_no_write"})
"""Events that change nothing; looking at a drop must not keep it from being quiet."""


@dataclass(slots=True)
class _Drop:
    print: tuple[int, int, int]
    changed: float
    """Monotonic seconds."""
    done: bool = False
    why_not: str = ""


class Watch:
    """Watches the entries of one folder, and tells of each drop once, when it is complete.

    Complete: it has been quiet for the configured time, and its index and sizes agree.
    """

    def __init__(
        self, *, folder: Path, config: Ingest, clock: Clock, on_drop: Callable[[Path], None]
    ) -> None:
        """``on_drop`` must return at once."""
        self._folder = folder
        self._config = config
        self._clock = clock
        self._on_drop = on_drop
        self._drops: dict[str, _Drop] = {}
        self._touched: set[str] = set()
        self._lock = threading.Lock()

    async def run(self) -> None:
        """Watch until cancelled."""
        observer = Observer()
        observer.schedule(_Handler(self._touch, self._folder), str(self._folder), recursive=True)
        observer.start()
        scanned = float("-inf")
        try:
            while True:
                now = self._clock.monotonic()
                with self._lock:
                    names, self._touched = self._touched, set()
                if now - scanned >= self._config.rescan_interval_seconds:
                    scanned = now
                    names |= set(await asyncio.to_thread(os.listdir, self._folder))
                    names |= set(self._drops)
                for name in sorted(names):
                    await self._look(name)
                await self._finish()
                await self._clock.sleep(POLL_S)
        finally:
            observer.stop()
            await asyncio.to_thread(observer.join)

    def _touch(self, name: str) -> None:
        with self._lock:
            self._touched.add(name)

    async def _look(self, name: str) -> None:
        if name.startswith("."):
            return
        found = await asyncio.to_thread(fingerprint, self._folder / name)
        if found is None:
            self._drops.pop(name, None)
            return
        drop = self._drops.get(name)
        if drop is None or drop.print != found:
            self._drops[name] = _Drop(print=found, changed=self._clock.monotonic())

    async def _finish(self) -> None:
        quiet = self._config.quiet_period_seconds
        for name, drop in list(self._drops.items()):
            if drop.done or self._clock.monotonic() - drop.changed < quiet:
                continue
            path = self._folder / name
            found = await asyncio.to_thread(fingerprint, path)
            if found != drop.print:
                await self._look(name)
                continue
            why_not = await asyncio.to_thread(analysis.is_complete, path)
            if why_not is None:
                drop.done = True
                self._on_drop(path)
            else:
                if why_not != drop.why_not:
                    logger.info("%s is not complete yet: %s", name, why_not)
                drop.why_not = why_not
                drop.changed = self._clock.monotonic()


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Number of files, their bytes and newest change (ns) of a drop; ``None``: it is gone."""
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


class _Handler(FileSystemEventHandler):
    """Names the top-level entry that an event is in. Called on watchdog's thread."""

    def __init__(self, touch: Callable[[str], None], folder: Path) -> None:
        self._touch = touch
        self._folder = folder

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in READ_ONLY:
            return
        for raw in (event.src_path, event.dest_path):
            path = Path(os.fsdecode(raw)) if raw else None
            if path and path != self._folder and path.is_relative_to(self._folder):
                self._touch(path.relative_to(self._folder).parts[0])
