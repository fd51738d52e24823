"""The local Ray cluster that Modelium owns: its start, its adoption after a restart and its end.

`ray stop` ends every cluster of the user, so it is never used. All processes of this cluster have
the same random mark in their environment, and only processes with the mark are ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from modelium.errors import ConfigError, Unavailable
from modelium.ports import Clock
from runtimes.process import proc
from runtimes.process.fresh_file import fresh_file
from runtimes.process.ports import free_port
from runtimes.process.sandbox import Sandbox
from runtimes.process.socket_folder import make_private, socket_folder
from runtimes.ray import ray_start
from runtimes.ray.cluster_record import MARK, ClusterRecord, marked

log = logging.getLogger(__name__)

START_S = 120.0
"""`ray start --head` takes 8-21 s on two busy cores; beyond two minutes it hangs."""
RAY_PATH = 71
"""Bytes of the longest path of a socket in Ray's temporary folder."""
PORTS = range(20_000, 32_768)
"""Between the ports of Ray's workers (10002-19999) and the kernel's ephemeral ports, which Ray's
other processes use: neither takes a port between its choice and its use."""
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - probed only


def free_ports(count: int, *, taken: int = 0) -> list[int]:
    """Return ``count`` different free TCP ports other than ``taken``.

    Raises:
        Unavailable: there are fewer.
    """
    ports: list[int] = []
    for port in secrets.SystemRandom().sample(PORTS, len(PORTS)):
        if port != taken and free_port(ALL_ADDRESSES, port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise Unavailable(
        f"fewer than {count} free TCP ports from {PORTS.start} to {PORTS.stop - 1}: stop the "
        "programs that listen there"
    )


class LocalCluster:
    """One head node on this machine. It and its applications outlive Modelium."""

    def __init__(
        self,
        *,
        directory: Path,
        clock: Clock,
        sandbox: Sandbox | None = None,
        start_s: float = START_S,
    ) -> None:
        """``directory`` keeps the record, the token and the logs, and nothing else.

        ``sandbox`` confines the cluster with all its models; ``start_s`` bounds `ray start`.
        """
        self._start_s = start_s
        self._sandbox = sandbox
        self._directory = directory
        self._clock = clock
        self.record: ClusterRecord | None = None

    @property
    def token_path(self) -> Path:
        """The file with the cluster's bearer token, readable by its owner only."""
        return self._directory / "token"

    def environment(self) -> dict[str, str]:
        """Return the environment of all processes of the cluster and of its clients."""
        return ray_start.inherited() | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            # Ray records its newest cluster in a shared folder, where the `ray.init()` of other
            # programs must not find ours.
            "RAY_TMPDIR": str(self._temp()),
        }

    def confined(
        self, command: Sequence[str], environment: Mapping[str, str], *, work: Path
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return ``command`` and ``environment`` of a process that is confined like the cluster.

        ``work`` is its own folder. It cannot change the record, the token and the logs, which the
        service trusts.
        """
        if self._sandbox is None:
            return command, environment
        argv, variables, _ = self._sandbox.wrapped(
            command, environment, work=work, shown=(self.token_path,), writable=(self._temp(),)
        )
        return argv, variables

    def alive(self) -> bool:
        """Whether its head node runs; reads the process table only."""
        processes = self.record.processes if self.record is not None else {}
        return bool(processes) and all(proc.alive_since(pid) == at for pid, at in processes.items())

    def adopt(self) -> bool:
        """Adopt the recorded cluster if it is alive and of this Ray version and interpreter."""
        try:
            record = ClusterRecord.model_validate_json(self._record_path.read_bytes())
        except (OSError, ValidationError):
            return False
        self.record = record
        same = record.ray_version == version("ray") and record.python == sys.executable
        marks = all(proc.has_variable(pid, MARK, record.mark) for pid in record.processes)
        return same and marks and self.alive()

    async def start(self, *, proxy_host: str, proxy_port: int) -> ClusterRecord:
        """Start a head node, after ending what is left of an earlier one.

        Raises:
            Unavailable: it did not start; the message ends with Ray's output.
            ConfigError: Serve's proxy cannot listen at ``proxy_host`` and ``proxy_port`` (0: any
                free port).
        """
        self.adopt()  # the record of an interrupted start has the mark of its processes
        await self.end()
        self._prepare()
        if proxy_port and not free_port(proxy_host, proxy_port):
            raise ConfigError(
                f"{proxy_host}:{proxy_port} of ray_serve.endpoint is no address of this machine or "
                "taken by another program: stop that program, or set another port (0: any)"
            )
        gcs, metrics, client, agent, proxy = free_ports(5, taken=proxy_port)
        record = ClusterRecord(
            mark=secrets.token_hex(16),
            gcs_port=gcs,
            proxy_host=proxy_host,
            proxy_port=proxy_port or proxy,
            ray_version=version("ray"),
            python=sys.executable,
            temp=str(self._temp()),
        )
        self._write(record)  # before the first process starts, for the case of a crash
        command = _command(record, metrics_port=metrics, client_port=client, agent_port=agent)
        try:
            await self._run(command, record.mark)
            processes = self._essential_processes(record.mark)
            if not processes:
                raise Unavailable("ray start reported success, but neither GCS nor raylet runs")
            self._write(record.model_copy(update={"processes": processes}))
        except BaseException:
            await asyncio.shield(self.end())
            raise
        assert self.record is not None  # noqa: S101
        log.info("the Ray head node runs at %s", self.record.address)
        return self.record

    async def end(self) -> None:
        """End all processes of the cluster and remove its files; do nothing if there is none."""
        record, self.record = self.record, None
        if record is None:
            return
        if pids := await ray_start.end(record.mark, self._clock):
            log.error("processes %s of the Ray cluster survive SIGKILL", pids)
            return  # the record stays, so that the next start tries again
        self._record_path.unlink(missing_ok=True)
        await asyncio.to_thread(self._remove, record.temp)

    def _remove(self, temp: str) -> None:
        if not os.path.lexists(temp):
            return
        if temp == str(self._temp()):  # the record may be damaged, or of another place
            shutil.rmtree(temp, ignore_errors=True)
        else:
            log.warning("%s is not removed: it is not the folder of this cluster", temp)

    @property
    def _record_path(self) -> Path:
        return self._directory / "cluster.json"

    @property
    def _work(self) -> Path:
        return self._directory / "work"

    def _temp(self) -> Path:
        """Return Ray's folder: beside the record unless socket paths would be too long there."""
        return socket_folder(self._directory / "tmp", longest_name=RAY_PATH)

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private(self._temp())
        make_private(self._work)
        with fresh_file(self.token_path) as file:
            file.write(secrets.token_hex(32).encode())

    def _write(self, record: ClusterRecord) -> None:
        beside = self._record_path.with_suffix(".new")
        with fresh_file(beside) as file:
            file.write(json.dumps(record.model_dump(mode="json")).encode())
        beside.replace(self._record_path)
        self.record = record

    async def _run(self, command: list[str], mark: str) -> None:
        environment = self.environment()
        argv, variables = self.confined(command, environment, work=self._work)
        await ray_start.run(
            argv,
            variables,
            mark=mark,
            work=self._work,
            output=self._directory / "start.log",
            limit_s=self._start_s,
        )

    def _essential_processes(self, mark: str) -> dict[int, int]:
        """Return the GCS and the raylet; the cluster needs both."""
        found: dict[int, int] = {}
        for pid in marked(mark):
            with contextlib.suppress(OSError):
                name = Path(os.readlink(f"/proc/{pid}/exe")).name
                ticks = proc.alive_since(pid)
                if name in ("gcs_server", "raylet") and ticks is not None:
                    found[pid] = ticks
        return found if len(found) == 2 else {}


def _command(
    record: ClusterRecord, *, metrics_port: int, client_port: int, agent_port: int
) -> list[str]:
    return ray_start.command(
        *("--head", f"--port={record.gcs_port}", f"--temp-dir={record.temp}"),
        *(f"--metrics-export-port={metrics_port}", f"--ray-client-server-port={client_port}"),
        *(f"--dashboard-agent-listen-port={agent_port}", "--include-dashboard=false"),
    )
