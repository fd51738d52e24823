"""The service that faults happen to, in a folder and on ports of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests import engines
from tests.chaos.client import Client
from tests.integration.service import Service
from tests.invariants import Drop, processes
from tests.invariants.folders import digest
from tests.modelium.analysis.files import gguf_folder

ENGINE = Path(__file__).parents[1] / "fakes" / "engine.py"
REST_S = 60.0
"""Within this the service is at rest after a fault, on a machine that is not idle."""

SIZE_MIB = 192
"""Of the file system that everything of the service lies on."""

POLL_S = 0.2


class Unaimed(Exception):
    """The moment that a fault is aimed at did not come."""


class Ground:
    """A running service, its client, and all drops so far."""

    def __init__(
        self, seed: int, *, settings: Callable[[Ground], Mapping[str, Any]] | None = None
    ) -> None:
        """``settings``: what is added to those of a service with a fake llama.cpp."""
        self.seed = seed
        self.rng = random.Random(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="modelium-chaos-"))
        self.servers = settings is not None
        """Whether it has others than its engines, which need more room of all kinds."""
        mount = ("mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(self.folder))
        self.mounted = os.geteuid() == 0 and not self.servers and _run(*mount)
        command = self.folder / "engine"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {ENGINE} "$@"\n')
        command.chmod(0o755)
        port = engines.free_port()
        given = {
            "orchestration": {
                "cpu_memory_gib": 4.0 if self.servers else 0.75,  # room for two engines
                "metrics": {"collection_interval_seconds": 0.5},
                "policies": {"healthy_after_seconds": 1.0},
            },
            "ingest": {"quiet_period_seconds": 0.2, "rescan_interval_seconds": 2.0},
            "llama_cpp": {
                "enabled": True,
                "executable": str(command),
                "base_port": engines.free_port(16),
                "unhealthy_after_seconds": 20.0,
            },
            "gateway": {"port": port, "max_wait_seconds": 60.0, "drain_grace_seconds": 2.0},
            "prefect": {"enabled": False},
            **(settings(self) if settings else {}),
        }
        self.service = Service(self.folder / "service", settings=given)
        self.client = Client(f"http://127.0.0.1:{port}")
        self.drops: list[Drop] = []
        self.tokens: set[str] = set()
        self._names = 0

    # --- what users do ------------------------------------------------------------------------

    def drop(self, *, healthy: bool = True, **behaviour: Any) -> str:
        """Drop a model of its own content; ``behaviour``: of its engine. Requests go to it from
        now on where it is ``healthy``."""
        self._names += 1
        name = f"m{self._names}"
        folder = gguf_folder(self.folder / "aside" / name)
        (folder / "fake.json").write_text(json.dumps({"start_s": 0.1, **behaviour}))
        (folder / "README.md").write_text(f"{self.seed} {name}")
        self.put(name, folder)
        if healthy:
            self.client.models.append(name)
        return name

    def put(self, name: str, folder: Path) -> None:
        """Move ``folder`` into the drop zone, and remember it."""
        self.drops.append(Drop(name=name, digests=frozenset({digest(folder)})))
        folder.rename(self.service.incoming / name)

    def order(self, method: str, path: str, *, wait: float = 20.0) -> int:
        """Ask for something as an operator; return the status, 0 where there is no answer."""
        url = f"{self.client.url}/api/v1{path}"
        try:
            answer = httpx.request(
                method, url, params={"wait": wait}, timeout=wait + 60, trust_env=False
            )
        except httpx.TransportError:
            return 0
        return answer.status_code

    # --- what is seen from outside ------------------------------------------------------------

    def state(self, model: str) -> str:
        """Return the state that the store has of ``model``; empty: not registered."""
        file = self.service.state / "modelium.db"
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=1)) as store:
                row = store.execute("SELECT state FROM models WHERE name = ?", (model,)).fetchone()
        except sqlite3.Error:
            return ""
        return row[0] if row else ""

    def engines(self, model: str = "") -> list[int]:
        """Return the processes of the engine of ``model``, or of all."""
        folder = f"{self.folder / 'service' / 'repository'}/{model}/".replace("//", "/")
        return [
            process.pid
            for process in psutil.process_iter()
            if any(word.startswith(folder) for word in _words(process))
        ]

    def until(self, holds: Callable[[], object], *, within_s: float = 30.0) -> None:
        """Wait closely until something holds; `Unaimed` where it does not."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                raise Unaimed
            time.sleep(0.002)

    def served(self, model: str, *, within_s: float) -> bool:
        """Whether ``model`` answers in time."""
        deadline = time.monotonic() + within_s
        while (status := self.client.ask(model)) != 200:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S if status else 1.0)
        return True

    # --- the end of a trial -------------------------------------------------------------------

    def at_rest(self) -> list[str]:
        """Return which invariants do not hold, even after a while at rest."""
        deadline = time.monotonic() + REST_S
        self.tokens |= processes.recorded(self.service.state).keys()
        while wrong := self.service.wrong(
            at_rest=True,
            drops=tuple(self.drops),
            journal=self.client.journal,
            tokens=frozenset(self.tokens),
        ):
            if time.monotonic() > deadline:
                return wrong
            time.sleep(POLL_S)
        return []

    def alive(self) -> bool:
        """Whether the service's process lives."""
        process = self.service.process
        return process is not None and process.poll() is None

    def end(self, *, keep: bool = False) -> None:
        """End the service and what it started, and remove its folder unless it is to be kept."""
        kept = f"{self.folder}-kept"
        if keep:
            shutil.copytree(self.folder, kept, ignore=_special)
            print(f"    kept: {kept}")
        if self.servers:  # whose processes `down` knows best
            with suppress(AssertionError, subprocess.TimeoutExpired, ValueError):
                self.service.cli("down")
        own = self.service.process
        below = psutil.Process(own.pid).children(recursive=True) if own and self.alive() else []
        if self.alive():
            self.service.kill()
        for pid in [*(child.pid for child in below), *self.engines(), *self._belonging()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.mounted:
            _run("umount", "-l", str(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _belonging(self) -> list[int]:
        state, repository = self.service.state, self.folder / "service" / "repository"
        found = processes.belonging(
            processes.engines(), state=state, repository=repository, tokens=self.tokens
        )
        return [process.pid for process in found]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _special(folder: str, names: list[str]) -> list[str]:
    """Return which ``names`` are no files that can be copied."""
    paths = [Path(folder) / name for name in names]
    return [path.name for path in paths if not (path.is_file() or path.is_dir())]


def _run(*command: str) -> bool:
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
