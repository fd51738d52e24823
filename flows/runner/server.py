"""The embedded Prefect server: a child process that never outlives this one.

Run as a module, this file is that child: ``python -m flows.runner.server PARENT HOST PORT``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO

from modelium.config import Prefect
from modelium.errors import ConfigError
from modelium.ports import Clock

logger = logging.getLogger(__name__)

AUTH_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"

STOP_GRACE_S = 10.0
"""For open connections to end; the database is SQLite in WAL mode, so a kill loses nothing."""

RESTART_DELAY_S = (1.0, 60.0)
"""First and longest pause before a server that died is started again; doubles in between."""

STABLE_S = 120.0
"""A server that lived this long starts again with the first pause."""

LEAST_RETENTION_S = timedelta(hours=1, seconds=1).total_seconds()
"""Prefect refuses an hour or less."""

LOG_LIMIT_BYTES = 10 * 1024**2
"""A log that is longer is moved to ``.1`` when the server starts."""

CONNECTIONS = 60
"""More than requests are ever in flight at once: two per turn of a run, events, logs, the UI."""

MAX_SCHEDULED_RUNS = 5
"""Future runs per schedule: few, because each is rows in the database."""

STEPS_AT_ONCE = 50
"""States of task runs that are written in one transaction."""

COLLECT_S = 0.1
"""Between two looks at what garbage there may be."""

_PR_SET_PDEATHSIG = 1


class EmbeddedServer:
    """A Prefect server of our own. An async context manager: entering starts, leaving kills.

    Entering does not wait until it answers: the first start takes up to half a minute.
    """

    def __init__(
        self, *, config: Prefect, folder: Path, clock: Clock, environ: Mapping[str, str]
    ) -> None:
        """Choose the port.

        Args:
            config: host, port (0: any free one) and retention.
            folder: for its database, log and Prefect home; made when missing.
            clock: for the pauses between restarts.
            environ: the process's environment; ``PREFECT_*`` in it stand above our defaults.

        Raises:
            ConfigError: it would be open to the network without authentication.
        """
        if not _is_loopback(config.host) and not environ.get(AUTH_VARIABLE):
            raise ConfigError(
                f"prefect.host {config.host} is reachable from the network: use 127.0.0.1, or set "
                f"{AUTH_VARIABLE} and PREFECT_API_AUTH_STRING to the same USER:PASSWORD"
            )
        self._host = config.host
        self._port = config.port or _free_port(config.host)
        self._folder = folder
        self._clock = clock
        self._environ = {
            **_defaults(folder, config.retention_days),
            # Pages would ask port 4200 otherwise, wherever this server listens.
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            **environ,
            # The child is the server: it must not look for another one, nor read a profile.
            "PREFECT_HOME": str(folder),
            "PREFECT__SERVER_FINAL": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(Path(__file__).parents[2]), environ.get("PYTHONPATH")))
            ),
        }
        self._environ.pop("PREFECT_API_URL", None)
        self._supervisor: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def ui_url(self) -> str:
        """Where people look, without a trailing slash."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    @property
    def api_url(self) -> str:
        """What ``PREFECT_API_URL`` is for clients of it."""
        return f"{self.ui_url}/api"

    @property
    def pid(self) -> int | None:
        """Of the running child."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def __aenter__(self) -> EmbeddedServer:
        """Start it, and start it again whenever it dies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._supervisor = asyncio.create_task(self._supervise(), name="prefect-server")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop it and everything that it started."""
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)

    async def _supervise(self) -> None:
        delay, longest = RESTART_DELAY_S
        while True:
            started = self._clock.monotonic()
            try:
                await self._live()
            except OSError as exc:
                logger.error("the embedded Prefect server cannot start on %s: %s", self.ui_url, exc)
            if self._clock.monotonic() - started > STABLE_S:
                delay = RESTART_DELAY_S[0]
            logger.warning("starting the embedded Prefect server again in %.0f s", delay)
            await self._clock.sleep(delay)
            delay = min(longest, delay * 2)

    async def _live(self) -> None:
        """One life of the child; raises `OSError` when it cannot begin."""
        _require_free(self._host, self._port)
        with self._log() as log:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "flows.runner.server", str(os.getpid()), self._host, str(self._port)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )
        try:
            code = await process.wait()
            logger.error(
                "the embedded Prefect server ended with %s; its last words are in %s",
                code,
                log.name,
            )
        finally:
            await _kill_group(process)

    def _log(self) -> IO[bytes]:
        path = self._folder / "server.log"
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path.open("ab")


def _defaults(folder: Path, retention_days: float) -> dict[str, str]:
    retention = max(LEAST_RETENTION_S, timedelta(days=retention_days).total_seconds())
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        # A writer of SQLite that needs a second connection, while all are held by requests that
        # wait for that writer, stalls the server for a minute (its busy timeout).
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": str(CONNECTIONS),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Our worker picks runs up at once; marking late ones only adds writes to SQLite.
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": str(MAX_SCHEDULED_RUNS),
        # A task run has three states, each a transaction that others would wait for: a second's
        # worth in one of them halves the time in which a drop becomes a load.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": str(STEPS_AT_ONCE),
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": str(STEPS_AT_ONCE),
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        # Slots held in memory would leak for ever when the server restarts.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(int(retention)),
        # Kept events are three quarters of the database and most of its write load. Runs, states,
        # logs, task runs and automations do not need them, only the UI's event feed does.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _free_port(host: str) -> int:
    with _bound(host, 0) as held:
        return int(held.getsockname()[1])


def _require_free(host: str, port: int) -> None:
    """Raise `OSError` when something else listens there: it would be taken for our child."""
    try:
        _bound(host, port).close()
    except OSError as exc:
        raise OSError(f"port {port} is taken ({exc}): free it, or set prefect.port") from exc


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    """End the child's whole session: politely while it lives, then for certain."""
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _serve(parent: int, host: str, port: int) -> None:
    """Be the server, until killed or until ``parent`` dies in whatever way."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    import uvicorn

    threading.Thread(target=_collect_garbage, name="gc", daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(STOP_GRACE_S / 2),
    )


def _collect_garbage() -> None:
    """Collect cycles on a thread of its own, for ever; never on the event loop's.

    A caught database error keeps its SQLite cursor in a cycle. Finalizing that takes the mutex of
    its connection, which by then may wait for the write lock of a transaction that only the event
    loop can end: collected there, it stops the whole server until the busy timeout of a minute.
    """
    gc.disable()
    while True:
        time.sleep(COLLECT_S)
        counts = zip(gc.get_count(), gc.get_threshold(), strict=True)
        due = [generation for generation, (count, limit) in enumerate(counts) if count > limit]
        if due:
            gc.collect(max(due))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
