"""Tells a process that something changed: PostgreSQL says so at once, and polling backs it."""

from __future__ import annotations

import logging
import os
import selectors
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection, Engine

from modelium.errors import StoreUnavailable

logger = logging.getLogger(__name__)

CHANNEL = "modelium"

POLL_S = 1.0
"""Between two looks where nothing is told: behind a pooler, or after a message was lost."""

REST_S = 0.05
"""After each change that was told: many in a row are one."""

PAUSE_S = 1.0
"""Before another connection is tried."""

MARK = (
    "SELECT (SELECT value FROM meta WHERE key = 'revision'), (SELECT md5(string_agg(concat(id,"
    " answered_at IS NOT NULL), ',' ORDER BY id)) FROM questions)"
)
"""Changes with every change that a plan may depend on, every question and every answer. What is
measured, and heartbeats, wake nobody. It takes 0.1 ms: askers delete their questions."""


def notify(tx: Connection) -> None:
    """Wake all processes when ``tx`` is committed; with SQLite there is one."""
    if tx.dialect.name == "postgresql":
        tx.exec_driver_sql(f"NOTIFY {CHANNEL}")


@contextmanager
def wakeups(engine: Engine, on_change: Callable[[], None]) -> Iterator[None]:
    """Call ``on_change``, on a thread of its own, after each change while the body runs.

    It is called once at the start, and at least once after every change, whoever made it. Nothing
    happens with SQLite.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    watch = _Watch(engine, on_change)
    watching = threading.Thread(target=watch.run, name="wakeups", daemon=True)
    watching.start()
    try:
        yield
    finally:
        watch.end()
        watching.join()
        os.close(watch.ending)


def is_direct(session: Any) -> bool:
    """Return whether a psycopg connection is to the server itself.

    A pooler makes up the process id that it tells when one connects. In transaction mode, what a
    session listens to would stay with whoever is given that session next.
    """
    (pid,) = session.execute("SELECT pg_backend_pid()").fetchone()
    return bool(pid == session.info.backend_pid)


class _Watch:
    """A connection that looks for changes, and is replaced where it is lost."""

    def __init__(self, engine: Engine, on_change: Callable[[], None]) -> None:
        self._engine = engine
        self._on_change = on_change
        self._mark: object = None
        self._ended = threading.Event()
        self.ending = os.eventfd(0)

    def end(self) -> None:
        self._ended.set()
        os.eventfd_write(self.ending, 1)

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                # A connection of its own, not one of the pool's.
                with self._engine.connect() as held:
                    held.detach()
                    session: Any = held.connection.dbapi_connection
                    session.autocommit = True
                    self._watch(session)
            except (StoreUnavailable, OSError, self._engine.dialect.loaded_dbapi.Error) as exc:
                logger.debug("changes of the store are not seen: %s", exc)
                self._ended.wait(PAUSE_S)

    def _watch(self, session: Any) -> None:
        with selectors.DefaultSelector() as either:
            either.register(session.fileno(), selectors.EVENT_READ)
            either.register(self.ending, selectors.EVENT_READ)
            if is_direct(session):
                session.execute(f"LISTEN {CHANNEL}")
            while not self._ended.is_set():
                mark = session.execute(MARK).fetchone()
                if mark != self._mark:
                    self._mark = mark
                    self._on_change()
                    self._ended.wait(REST_S)
                # What was told while the mark was read may be newer than it.
                if not list(session.notifies(timeout=0)):
                    either.select(POLL_S)
