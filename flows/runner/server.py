"""The embedded Prefect server: a child process that never outlives this one.

Run as a module, this file is that child: ``python -m flows.runner.server PARENT HOST PORT``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO

from modelium import private
from modelium.config import Prefect
from modelium.config.hosts import authority, bind, free_port
from modelium.ports import Clock

logger = logging.getLogger(__name__)

AUTH_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"

USER = "modelium"

INHERITED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONHOME"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "DO_NOT_TRACK"),
        # Automations call webhooks through them.
        *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    }
)
INHERITED_PREFIXES = ("LC_", "PREFECT_")
CLIENT_PREFIX = "PREFECT_API_"
"""Of variables with which this process is a client of a server; the server is none."""

STOP_GRACE_S = 10.0
"""For open connections to close; the database is SQLite in WAL mode, so a kill loses nothing."""

RESTART_DELAY_S = (1.0, 60.0)
"""First and longest pause before a dead server is restarted; doubles in between."""

STABLE_S = 120.0
"""After a server ran this long, the pause starts at its first value again."""

LEAST_RETENTION_S = timedelta(hours=1, seconds=1).total_seconds()
"""Prefect refuses an hour or less."""

LOG_LIMIT_BYTES = 10 * 1024**2
"""A longer log is moved to ``.1`` when the server starts."""

CONNECTIONS = 60
"""More than the requests that are ever in flight: two per slot, events, logs, the UI."""

MAX_SCHEDULED_RUNS = 5
"""Future runs per schedule: few, because each takes rows in the database."""

STATES_PER_WRITE = 50
"""States of task runs per transaction."""

COLLECT_S = 0.1
"""Between two checks for garbage."""

_PR_SET_PDEATHSIG = 1


class EmbeddedServer:
    """An embedded Prefect server. An async context manager: entering starts it, leaving kills it.

    Entering does not wait until it answers: the first start takes up to 30 s.
    """

    def __init__(
        self,
        *,
        config: Prefect,
        folder: Path,
        clock: Clock,
        environ: Mapping[str, str],
        credentials: Path | None = None,
    ) -> None:
        """Choose the port and the credentials.

        Args:
            config: host, port (0: any free one) and retention.
            folder: for its database, log, credentials and Prefect home; made when missing.
            clock: for the pauses between restarts.
            environ: the process's environment; ``PREFECT_*`` in it override our defaults.
            credentials: file with ``USER:PASSWORD``, made when missing; not used where
                `AUTH_VARIABLE` is set. Default: in ``folder``.
        """
        self.auth = environ.get(AUTH_VARIABLE) or private.credentials(
            credentials or folder / "credentials", user=USER
        )
        self._host = config.host
        self._port = config.port or free_port(config.host)
        self._folder = folder
        self._clock = clock
        self._environ = {
            **_defaults(folder, config.retention_days),
            # Otherwise the UI would use port 4200, wherever this server listens.
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # Pages of other origins may not read answers; the UI may be opened by either name.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": (f"{self.ui_url},http://localhost:{self._port}"),
            **inherited(environ),
            AUTH_VARIABLE: self.auth,
            # The child is the server: it must not use another server or read a profile.
            "PREFECT_HOME": str(folder),
            "PREFECT__SERVER_FINAL": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(Path(__file__).parents[2]), environ.get("PYTHONPATH")))
            ),
        }
        self._supervisor: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def ui_url(self) -> str:
        """The address of the UI, without a trailing slash."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        return f"http://{authority(host, self._port)}"

    @property
    def api_url(self) -> str:
        """The value of ``PREFECT_API_URL`` for its clients."""
        return f"{self.ui_url}/api"

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def __aenter__(self) -> EmbeddedServer:
        """Start it, and restart it whenever it dies."""
        private.folder(self._folder)
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
                await self._run()
            except OSError as exc:
                logger.error("the embedded Prefect server cannot start on %s: %s", self.ui_url, exc)
            if self._clock.monotonic() - started > STABLE_S:
                delay = RESTART_DELAY_S[0]
            logger.warning("restarting the embedded Prefect server in %.0f s", delay)
            await self._clock.sleep(delay)
            delay = min(longest, delay * 2)

    async def _run(self) -> None:
        """Run the child once until it ends; raises `OSError` when it cannot start."""
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
                "the embedded Prefect server ended with exit code %s; see the end of %s",
                code,
                log.name,
            )
        finally:
            await _kill_group(process)

    def _log(self) -> IO[bytes]:
        path = self._folder / "server.log"
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return open(path, "ab", opener=private.opener)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``environ`` that the server gets; others may be secrets."""
    return {
        name: value
        for name, value in environ.items()
        if (name in INHERITED or name.startswith(INHERITED_PREFIXES))
        and not name.startswith(CLIENT_PREFIX)
    }


def _defaults(folder: Path, retention_days: float) -> dict[str, str]:
    retention = max(LEAST_RETENTION_S, timedelta(days=retention_days).total_seconds())
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        # A SQLite writer that needs a second connection, while requests that wait for that writer
        # hold all of them, stalls the server for a minute (its busy timeout).
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": str(CONNECTIONS),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Our worker claims runs at once; marking late ones only adds writes.
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": str(MAX_SCHEDULED_RUNS),
        # Each of the three states of a task run would be a transaction that others wait for;
        # writing those of a second together halves the time from a drop to its load.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": str(STATES_PER_WRITE),
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": str(STATES_PER_WRITE),
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        # Slots held in memory would leak when the server restarts.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(int(retention)),
        # Stored events are three quarters of the database and most of its writes. Only the UI's
        # event feed needs them.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


def _require_free(host: str, port: int) -> None:
    """Raise `OSError` when something else listens there: it would be taken for our child."""
    try:
        bind(host, port).close()
    except OSError as exc:
        raise OSError(f"port {port} is taken ({exc}): free it, or set prefect.port") from exc


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Stop the child's whole session: SIGTERM, then SIGKILL."""
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _serve(parent: int, host: str, port: int) -> None:
    """Run the server until it is killed or ``parent`` dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.umask(0o077)  # its database has the parameters of runs
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
    """Collect garbage on this thread, never on the event loop's.

    A caught database error keeps its SQLite cursor in a reference cycle. Finalizing it takes
    the mutex of its connection, which may be waiting for the write lock of a transaction that only
    the event loop can end: on the event loop this stops the server until the busy timeout.
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
