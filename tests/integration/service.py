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
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import yaml

from runtimes.process import proc

START_S = 180.0


def laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, mapping by mapping."""
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
    ) -> None:
        """``settings`` are laid over `base`, section by section; ``environ`` over our own."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = folder / "modelium.yaml"
        self.incoming = folder / "incoming"
        self.state = folder / "state"
        self.process: subprocess.Popen[bytes] | None = None
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
        # As a shell starts what goes to the background: with SIGINT ignored.
        shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
        command = [sys.executable, "-m", "modelium", "up", "--config", str(self.config)]
        self.process = subprocess.Popen(
            [*shell, *command], stdout=log, stderr=log, env=self.environ, start_new_session=True
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            if (self.state / "endpoints.json").exists():
                status = httpx.get(f"{self.gateway}/api/v1/status", trust_env=False, timeout=20)
                if all(r["healthy"] for r in status.json()["runtimes"]):
                    return
            time.sleep(0.5)
        raise AssertionError(self.log())

    def stop(self) -> None:
        """As Ctrl-C does: models live on."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(120)

    def down(self) -> dict[str, Any]:
        """End it and all that it started."""
        told: dict[str, Any] = self.cli("down")
        if self.process:
            # At its exit Prefect may still try to hand over log lines, some times with pauses.
            self.process.wait(90)
        return told

    def remains(self) -> list[str]:
        """What should be gone once it is down: processes, endpoints, records, bookings of
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
        return (self.folder / "service.log").read_text()[-8000:]

    @property
    def endpoints(self) -> dict[str, str]:
        return dict(json.loads((self.state / "endpoints.json").read_text()))

    @property
    def gateway(self) -> str:
        return self.endpoints["gateway"]

    @property
    def prefect_api(self) -> str:
        return self.endpoints["prefect_api"]

    def cli(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and decode what it prints."""
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
        """What `modelium ls` shows, by model; asked directly, as a command takes seconds."""
        answer = httpx.get(f"{self.gateway}/api/v1/models", trust_env=False, timeout=20)
        return {row["name"]: row for row in answer.json()}

    def row(self, model: str) -> dict[str, Any]:
        return self.rows().get(model, {})

    def until(self, model: str, state: str, within_s: float = 120.0) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            row = self.row(model)
            if row.get("state") == state:
                return row
            assert row.get("state") != "failed", (row, self.log())
            time.sleep(0.2)
        raise AssertionError((self.row(model), self.log()))

    def runs(self) -> list[dict[str, Any]]:
        answer = httpx.post(
            f"{self.prefect_api}/flow_runs/filter",
            json={"limit": 200},
            trust_env=False,
            timeout=30,
        )
        return list(answer.json())
