"""A whole Modelium as a user starts it: a process of its own, over folders of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from runtimes.process import proc
from tests.invariants import Scene, violations
from tests.invariants.database import read

WITHIN_S = 300.0
"""For whatever a test waits for, unless it takes longer by its nature: only a test that fails
waits that long."""

POLL_S = 0.2
"""Another process tells nothing, so it is asked again and again."""

RECORDED = "stages are recorded"
"""In the service's log file once Prefect answers it."""

T = TypeVar("T")


def eventually(
    holds: Callable[[], T], *, shown: Callable[[], object], within_s: float = WITHIN_S
) -> T:
    """Ask until ``holds`` returns something true, and return it; else fail with ``shown``."""
    deadline = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < deadline, shown()
        time.sleep(POLL_S)
    return found


def laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` updated with ``changes``, nested mappings merged."""
    made = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = laid_over(made[key], value) if both else value
    return made


class Service:
    """`modelium up` over the folders in ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any],
        environ: Mapping[str, str] | None = None,
        open_files: int | None = None,
    ) -> None:
        """``settings`` are merged into `base`, ``environ`` into this process's environment.

        ``open_files``: the hard limit; ``None``: this process's.
        """
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = folder / "modelium.yaml"
        self.incoming = folder / "incoming"
        self.state = folder / "state"
        self.process: subprocess.Popen[bytes] | None = None
        self._limit = f"ulimit -n {open_files}; " if open_files else ""
        self.config.write_text(yaml.safe_dump(laid_over(self.base(), settings)))
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MODELIUM_"))},
            "RAY_USAGE_STATS_ENABLED": "0",
            **(environ or {}),
        }

    def base(self) -> dict[str, Any]:
        return {
            "orchestration": {
                "model_repository": str(self.folder / "repository"),
                "incoming_directory": str(self.incoming),
                "policies": {"min_residency_seconds": 0.0, "auto_unload_after_seconds": 3600.0},
                "metrics": {"prometheus_port": 0, "collection_interval_seconds": 1.0},
            },
            "ingest": {"quiet_period_seconds": 0.5},
            "gateway": {"port": 0},
            "prefect": {"port": 0},
        }

    def start(self) -> None:
        log = (self.folder / "service.log").open("ab")
        # With SIGINT ignored, as a shell starts background processes.
        shell = ["sh", "-c", f'{self._limit}trap "" INT; exec "$@"', "sh"]
        command = [sys.executable, "-m", "modelium", "up", "--config", str(self.config)]
        self.process = subprocess.Popen(
            [*shell, *command], stdout=log, stderr=log, env=self.environ, start_new_session=True
        )
        self.eventually(self._answers)

    def _answers(self) -> bool:
        """Whether the gateway and all runtimes answer."""
        assert self.process is not None and self.process.poll() is None, self.log()
        if not (self.state / "endpoints.json").exists():
            return False
        try:
            status = httpx.get(f"{self.gateway}/api/v1/status", trust_env=False, timeout=60)
        except httpx.TransportError:  # the address is that of a life before, which was killed
            return False
        return all(runtime["healthy"] for runtime in status.json()["runtimes"])

    def stop(self) -> None:
        """Stop it as Ctrl-C does; its models keep running."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(120)

    def down(self) -> dict[str, Any]:
        """Stop it and everything that it started; return what `modelium down` printed.

        The invariants hold until then, unless it has just been killed in the middle of something.
        """
        wrong = self.wrong()
        ended: dict[str, Any] = self.cli("down")
        if self.process:
            # At its exit Prefect may still try to hand over log lines, several times with pauses.
            self.process.wait(90)
        assert not wrong, "\n".join(wrong)
        return ended

    def kill(self) -> None:
        """Kill it as the system does for want of memory; its engines outlive it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def wrong(self, *, at_rest: bool = False, **known: Any) -> list[str]:
        """Return which invariants do not hold, each a sentence; see `tests.invariants`.

        ``known``: more of the scene, which a client of the service saw.
        """
        database = self.state / "modelium.db"
        if not database.exists():
            return []
        total = psutil.virtual_memory().total
        booked = {booking["device"] for booking in read(database).bookings}
        scene = Scene(
            database=database,
            repository=self.folder / "repository",
            incoming=self.incoming,
            rejected=self.folder / "rejected",
            now=time.time(),
            # Only real devices are known from outside.
            devices={d: total if d.endswith("/cpu") else sys.maxsize for d in booked},
            state=self.state,
            ignored=frozenset({"starts.jsonl", "semaphore"}),  # of the fake engine
            **known,
        )
        return violations(scene, at_rest=at_rest)

    def remains(self) -> list[str]:
        """Return what should be gone after `down`: processes, addresses, records, bookings of
        device memory, shared memory."""
        word, token = str(self.folder), str(self.state / "ray" / "token")
        found = [
            f"process {pid}: {proc.command_line(pid)[:200]!r}"
            for pid, process in proc.snapshot().items()
            if process.alive
            and (
                word.encode() in proc.command_line(pid)
                or proc.has_variable(pid, "RAY_AUTH_TOKEN_PATH", token)
            )
        ]
        records = [self.state / "endpoints.json", *self.state.glob("*/*.json")]
        found += [f"record {path}" for path in records if path.exists()]
        with closing(sqlite3.connect(self.state / "modelium.db")) as store:
            booked = store.execute("SELECT model, device FROM bookings").fetchall()
        found += [f"booking of {model} on {device}" for model, device in booked]
        key = hashlib.sha256(str(self.state / "triton-server").encode()).hexdigest()[:12]
        found += [str(path) for path in Path("/dev/shm").glob(f"modelium_triton_{key}_*")]
        return found

    def log(self) -> str:
        printed = (self.folder / "service.log").read_text()
        return f"{printed[-4000:]}\n{self.full_log()[-8000:]}"

    def printed(self) -> str:
        """Return what `up` has printed."""
        return (self.folder / "service.log").read_text()

    def full_log(self) -> str:
        """Return the service's log."""
        log = self.state / "modelium.log"
        return log.read_text() if log.exists() else ""

    @property
    def endpoints(self) -> dict[str, str]:
        return dict(json.loads((self.state / "endpoints.json").read_text()))

    @property
    def gateway(self) -> str:
        return self.endpoints["gateway"]

    @property
    def prefect_api(self) -> str:
        return self.endpoints["prefect_api"]

    @property
    def prefect_auth(self) -> tuple[str, str]:
        user, _, password = (self.state / "prefect" / "credentials").read_text().partition(":")
        return user, password.strip()

    def cli(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with ``--json`` and return what it prints."""
        command = [sys.executable, "-m", "modelium", *arguments, "--json"]
        done = subprocess.run(
            [*command, "--config", str(self.config)],
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=200,
        )
        assert done.returncode == code, (done.stdout, done.stderr, self.log())
        return json.loads(done.stdout)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what `modelium ls` shows, by model; over HTTP, because a command takes seconds."""
        answer = httpx.get(f"{self.gateway}/api/v1/models", trust_env=False, timeout=60)
        return {row["name"]: row for row in answer.json()}

    def row(self, model: str) -> dict[str, Any]:
        return self.rows().get(model, {})

    def until(self, model: str, state: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        """Wait until ``model`` is in ``state``, and return its row."""

        def found() -> dict[str, Any] | None:
            row = self.row(model)
            assert state == "failed" or row.get("state") != "failed", (row, self.log())
            return row if row.get("state") == state else None

        return (
            eventually(found, shown=lambda: (self.row(model), self.log()), within_s=within_s) or {}
        )

    def eventually(self, holds: Callable[[], T], within_s: float = WITHIN_S) -> T:
        """Wait as `eventually` does; the service's log is shown where it is in vain."""
        return eventually(holds, shown=self.log, within_s=within_s)

    def put_in(self, *models: str, write: Callable[[Path], object], team: str = "") -> None:
        """Drop ``models`` as careful users do: written beside the drop zone, renamed into it.

        ``team``: into whose folder; empty: into the drop zone itself.
        """
        for model in models:
            write(self.folder / "aside" / model)
        for model in models:
            (self.folder / "aside" / model).rename(self.incoming / team / model)

    def exposed(self) -> str:
        """Return the metrics as Prometheus scrapes them."""
        return httpx.get(self.endpoints["metrics"], trust_env=False, timeout=60).text

    def recording(self) -> bool:
        """Whether the service has reached Prefect since its first start."""
        return RECORDED in self.full_log()

    def runs(self) -> list[dict[str, Any]]:
        answer = httpx.post(
            f"{self.prefect_api}/flow_runs/filter",
            json={"limit": 200},
            auth=self.prefect_auth,
            trust_env=False,
            timeout=60,
        )
        return list(answer.json())
