"""File events of a folder's own entries: what changes without being looked at."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

logger = logging.getLogger(__name__)

OBSERVE_AGAIN_S = 60.0
"""Before file events are asked for again, where the kernel has refused them."""

READ_ONLY = frozenset({"opened", "closed_no_write"})
"""Events that change nothing. The watcher's own reading must not restart a quiet period."""


class FileEvents:
    """File events of the entries of one folder, for as long as there is that folder.

    What changes inside a drop is found when its quiet period ends: watching each of its folders
    would take as many of the kernel's watches as whoever drops it likes.
    """

    def __init__(self, *, folder: Path, on_change: Callable[[str], None]) -> None:
        """``on_change``: gets the name of an entry; called on watchdog's thread."""
        self._folder = folder
        self._on_change = on_change
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._refused = ""
        self._not_before = float("-inf")

    def keep(self, now: float) -> None:
        """Watch the folder that is there now, where it is not watched yet. Blocks."""
        try:
            info = os.stat(self._folder)
        except OSError:
            self.stop()
            return
        found = info.st_dev, info.st_ino
        observer = self._observer
        alive = observer is not None and all(
            thread.is_alive() for thread in (observer, *observer.emitters)
        )
        if (alive and found == self._watched) or now < self._not_before:
            return
        self.stop()
        observer = Observer()
        handler = _EventHandler(folder=self._folder, on_change=self._on_change)
        try:
            observer.schedule(handler, str(self._folder), recursive=False)
            observer.start()
        except (OSError, RuntimeError) as exc:  # such as fs.inotify.max_user_instances
            self._not_before = now + OBSERVE_AGAIN_S
            if str(exc) != self._refused:
                logger.warning("drops are found by rescans alone, without file events: %s", exc)
            self._refused = str(exc)
            return
        self._observer, self._watched, self._refused = observer, found, ""

    def stop(self) -> None:
        """Watch nothing. Blocks."""
        observer, self._observer, self._watched = self._observer, None, None
        if observer is not None:
            observer.stop()
            observer.join()


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
