"""One machine: `modelium up` in a namespace, over folders of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests import engines
from tests.integration.service import laid_over
from tests.machines.network import Network

PORT = 8000
"""Of every gateway: each machine has an address of its own."""

TRITON_PORT = 8100
LLAMA_PORT = 9000

MEMORY_GIB = 1.0
"""Of each machine: for three models of llama.cpp, so that two machines hold what the tests drop."""

FETCH = True

MAX_WAIT_S = 240.0
"""For which requests wait for their model: longer than a service takes to start where the machine
has much else to do."""

JOIN_TOKEN = "MODELIUM_JOIN_TOKEN"
STOP_S = 120.0


class Machine:
    """A machine's service: start, stop, kill and pause it as often as you like."""

    def __init__(
        self,
        name: str,
        *,
        network: Network,
        folder: Path,
        store: str,
        token: str,
        settings: Mapping[str, Any],
        triton: bool,
    ) -> None:
        """Write its configuration.

        Args:
            name: of the machine and its namespace.
            network: that it is in.
            folder: for all that is its own.
            store: URL of the shared store.
            token: of all gateways.
            settings: merged into the configuration.
            triton: whether it has Triton beside llama.cpp.
        """
        folder.mkdir()
        self.name, self.folder = name, folder
        self.seen = folder.parent / "machine"
        """Where each machine sees its own folder, so that none sees another one's files."""
        self.seen.mkdir(exist_ok=True)
        self.incoming = folder / "incoming"
        self.repository = folder / "repository"
        self.state = folder / "state"
        self.url = f"http://{network.address(name)}:{PORT}"
        self.process: subprocess.Popen[bytes] | None = None
        self._network = network
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MODELIUM_"))},
            "MODELIUM_STORE__URL": store,
        }
        given: dict[str, Any] = {
            "orchestration": {
                "node": name,
                "model_repository": str(self.seen / "repository"),
                "incoming_directory": str(self.seen / "incoming"),
                "cpu_memory_gib": MEMORY_GIB,
                "policies": {
                    "min_residency_seconds": 0.0,
                    "auto_unload_after_seconds": 3600.0,
                    "healthy_after_seconds": 1.0,
                },
                "metrics": {"prometheus_enabled": False, "collection_interval_seconds": 1.0},
            },
            "ingest": {"quiet_period_seconds": 0.3, "rescan_interval_seconds": 2.0},
            "gateway": {
                "host": network.address(name),
                "port": PORT,
                "advertise": self.url,
                "token": token,
                "max_wait_seconds": MAX_WAIT_S,
                "drain_grace_seconds": 5.0,
            },
            "repository": {"fetch": FETCH},
            "llama_cpp": {**engines.llama_cpp(), "base_port": LLAMA_PORT},
            "prefect": {"enabled": False},
        }
        if triton:
            endpoint = f"http://127.0.0.1:{TRITON_PORT}"
            given["triton"] = {**engines.triton(self.seen / "triton-work"), "endpoint": endpoint}
        self.config = folder / "modelium.yaml"
        self.config.touch(mode=0o600)
        self.config.write_text(yaml.safe_dump(laid_over(given, settings)))

    def start(self, *, join_token: str | None = None) -> None:
        """Start the service; it is not waited for."""
        environ = {**self._environ, **({JOIN_TOKEN: join_token} if join_token else {})}
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command("up"), env=environ, stdout=log, stderr=log, start_new_session=True
            )

    def _command(self, *words: str) -> list[str]:
        mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
        own = ["unshare", "--mount", "sh", "-c", mount, str(self.folder), str(self.seen)]
        nice = ["nice", "-n", "5", sys.executable, "-m", "modelium"]
        config = ["--config", str(self.seen / self.config.name)]
        return [*self._network.within(self.name), *own, *nice, *words, *config]

    def cli(self, *words: str, timeout_s: float = 120.0) -> Any:
        """Run a command on the machine, and return the JSON that it prints."""
        done = subprocess.run(
            [*self._command(*words), "--json"],
            capture_output=True,
            text=True,
            env=self._environ,
            timeout=timeout_s,
        )
        assert not done.returncode, f"modelium {' '.join(words)} on {self.name}: {done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    @property
    def alive(self) -> bool:
        """Whether its service's process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of its service; ``None`` without one."""
        return self.process.pid if self.process is not None and self.alive else None

    def stop(self) -> None:
        """Stop the service as systemd does; its models go on."""
        if self.process is not None and self.alive:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOP_S)

    def kill(self) -> None:
        """Kill the service; its engines go on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def pause(self) -> None:
        """Stop the service's process where it stands."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def down(self) -> None:
        """Stop the service and all that it started."""
        self.stop()
        self.cli("down")

    def rss_mib(self) -> float:
        """Return the resident memory of the service's process in MiB; 0 without one."""
        if self.process is None or not self.alive:
            return 0.0
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def open_files(self) -> int:
        """Return how many file descriptors the service has; 0 without one."""
        if self.process is None or not self.alive:
            return 0
        return int(psutil.Process(self.process.pid).num_fds())

    def log(self) -> str:
        """Return the end of what the service printed and logged."""
        parts = []
        for file in (self.folder / "service.log", self.state / "modelium.log"):
            if file.exists():
                parts.append(f"--- {file}\n{file.read_text()[-6000:]}")
        return "\n".join(parts)
