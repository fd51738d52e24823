"""The local Ray cluster that Modelium owns: started, found again after a restart, ended by pid.

`ray stop` ends every cluster of the user, so it is never used. All processes of one cluster
carry the same random mark in their environment; whoever carries it is ours, nobody else is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from modelium.errors import ConfigError, Unavailable
from modelium.ports import Clock
from runtimes.process import proc

log = logging.getLogger(__name__)

MARK = "MODELIUM_RAY_CLUSTER"
START_S = 120.0
"""`ray start --head` takes 8-21 s on two busy cores; beyond two minutes it hangs."""
TERM_S = 2.0
"""Grace between SIGTERM and SIGKILL. The processes hold nothing worth saving."""
KILL_S = 15.0
"""A process that survives SIGKILL for this long hangs in the kernel (a lost GPU, NFS)."""
OBJECT_STORE_BYTES = 78_643_200
"""Ray's minimum, almost: requests and answers are small, and /dev/shm may be."""
SOCKET_PATH = 107
"""Bytes of an AF_UNIX path; Ray adds about 70 to its temporary folder."""
RAY_SUFFIX = 72
PORTS = range(20_000, 32_768)
"""Between the ports that Ray hands to its workers (10002-19999) and those that the kernel, and
by it Ray's other processes, hand out at random: nobody takes one between choice and use."""
PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
PASSED_PREFIXES = ("LC_", "LANG", "CUDA_HOME", "CUDA_PATH", "NVIDIA_", "SSL_CERT")
GPUS = Path("/proc/driver/nvidia/gpus")
COUNTERS_PER_GPU = 8
"""Logical GPUs for each real one. Modelium decides and pins; Ray only counts, and by its own
order of packing: with bare room it would find none where Modelium has just booked some."""
REPORT_MS = 2000
"""How often workers hand on their counters. Ray's 10 s would lag behind the control loop."""


class ClusterRecord(BaseModel):
    """What is written down of a cluster, so that a later Modelium finds it again."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mark: str
    gcs_port: int
    proxy_host: str
    proxy_port: int
    ray_version: str
    python: str
    temp: str
    processes: dict[int, int] = {}
    """Pid → start time in clock ticks, of those that the cluster cannot live without."""

    @property
    def address(self) -> str:
        """``host:port`` of the GCS."""
        return f"127.0.0.1:{self.gcs_port}"


def started(pid: int) -> int | None:
    """When ``pid`` started, in clock ticks after boot; ``None`` where it is gone or a zombie."""
    process = proc.entry(pid)
    return process.started if process is not None and process.lives else None


def marked(mark: str) -> list[int]:
    """The live processes that carry ``mark``, oldest first."""
    processes = sorted(proc.snapshot().values(), key=lambda process: process.started)
    return [p.pid for p in processes if p.lives and proc.carries(p.pid, MARK, mark)]


def free_ports(count: int, *, taken: int = 0) -> list[int]:
    """Free TCP ports, all different and none of them ``taken``.

    Raises:
        Unavailable: there are not that many.
    """
    ports: list[int] = []
    for port in secrets.SystemRandom().sample(PORTS, len(PORTS)):
        if port != taken and bindable("", port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise Unavailable(f"no {count} free TCP ports from {PORTS.start} to {PORTS.stop - 1}")


def bindable(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # As servers do: connections in TIME_WAIT of the last one do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class LocalCluster:
    """One head node on this machine. Its applications outlive the process that deployed them."""

    def __init__(self, *, directory: Path, clock: Clock) -> None:
        """``directory`` keeps the record, the token and the logs; nothing else may use it."""
        self._directory = directory
        self._clock = clock
        self.record: ClusterRecord | None = None

    @property
    def token_path(self) -> Path:
        """The file with the cluster's bearer token; only its owner can read it."""
        return self._directory / "token"

    def environment(self) -> dict[str, str]:
        """Environment of every process of the cluster and of its clients: a short list.

        Whatever else Modelium was started with (keys, tokens) is no business of a model's code.
        """
        passed = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_ON or name.startswith(PASSED_PREFIXES)
        }
        return passed | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray notes its newest cluster in a shared folder; other people's `ray.init()`
            # must not find ours there.
            "RAY_TMPDIR": str(self._temp()),
            "RAY_metrics_report_interval_ms": str(REPORT_MS),
        }

    def alive(self) -> bool:
        """Whether its head still runs. Cheap: looks at processes only."""
        processes = self.record.processes if self.record is not None else {}
        return bool(processes) and all(started(pid) == at for pid, at in processes.items())

    def adopt(self) -> bool:
        """Take over the recorded cluster if it lives, is ours and is of this Ray."""
        try:
            record = ClusterRecord.model_validate_json(self._record_path.read_bytes())
        except (OSError, ValidationError):
            return False
        self.record = record
        same = record.ray_version == version("ray") and record.python == sys.executable
        marks = all(proc.carries(pid, MARK, record.mark) for pid in record.processes)
        return same and marks and self.alive()

    async def start(self, *, proxy_host: str, proxy_port: int) -> ClusterRecord:
        """Start a head node, once whatever an earlier one left behind is gone.

        Raises:
            Unavailable: it did not start; the message carries Ray's last words.
            ConfigError: Serve's proxy cannot listen at ``proxy_host`` and ``proxy_port`` (0: a
                free one).
        """
        self.adopt()  # a start that was cut off left its mark here
        await self.end()
        self._prepare()
        if proxy_port and not bindable(proxy_host, proxy_port):
            raise ConfigError(
                f"{proxy_host}:{proxy_port} of ray_serve.endpoint is no address of this machine or "
                "taken by another program: stop that or choose another port (0: a free one)"
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
        self._write(record)  # before the first process: a crash from here on leaves a trail
        command = _command(record, metrics_port=metrics, client_port=client, agent_port=agent)
        try:
            await self._run(command, record.mark)
            processes = self._vital(record.mark)
            if not processes:
                raise Unavailable("ray start reported success, but neither GCS nor raylet runs")
            self._write(record.model_copy(update={"processes": processes}))
        except BaseException:
            await asyncio.shield(self.end())
            raise
        assert self.record is not None  # noqa: S101
        log.info("ray head runs at %s", self.record.address)
        return self.record

    async def end(self) -> None:
        """End all its processes and remove its files. Fine where there is none."""
        record, self.record = self.record, None
        if record is None:
            return
        began = self._clock.monotonic()
        while pids := await asyncio.to_thread(marked, record.mark):
            waited = self._clock.monotonic() - began
            if waited > TERM_S + KILL_S:
                log.error("processes %s of the ray cluster cannot be killed", pids)
                return  # the record stays, so that the next start tries again
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM if waited < TERM_S else signal.SIGKILL)
            await self._clock.sleep(0.2)
        self._record_path.unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, record.temp, ignore_errors=True)

    @property
    def _record_path(self) -> Path:
        return self._directory / "cluster.json"

    def _temp(self) -> Path:
        """Ray's folder: beside the record, or a short one where sockets would not fit there."""
        beside = self._directory / "tmp"
        if len(str(beside).encode()) + RAY_SUFFIX <= SOCKET_PATH:
            return beside
        digest = hashlib.sha256(str(self._directory).encode()).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"modelium-ray-{os.getuid()}-{digest}"

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        temp = self._temp()
        temp.mkdir(parents=True, exist_ok=True, mode=0o700)
        if temp.stat().st_uid != os.getuid() or temp.is_symlink():
            raise Unavailable(f"{temp} belongs to somebody else: remove it, then try again")
        self.token_path.unlink(missing_ok=True)
        descriptor = os.open(self.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))

    def _write(self, record: ClusterRecord) -> None:
        beside = self._record_path.with_suffix(".new")
        beside.write_text(json.dumps(record.model_dump(mode="json")))
        beside.replace(self._record_path)
        self.record = record

    async def _run(self, command: list[str], mark: str) -> None:
        # SPT_NOENV: Ray renames its workers, which would otherwise overwrite the mark.
        environment = self.environment() | {MARK: mark, "SPT_NOENV": "1"}
        output = self._directory / "start.log"
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,  # not a pipe: the daemons inherit it and would hold it open
                stderr=file,
                env=environment,
                cwd=self._directory,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(START_S):
                    code = await process.wait()
            except TimeoutError as exc:
                raise Unavailable(f"ray start took more than {START_S:.0f} s: {output}") from exc
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if code:
            words = " ".join(output.read_text(errors="replace").split()[-60:])
            raise Unavailable(f"ray start failed ({code}): {words}")

    def _vital(self, mark: str) -> dict[int, int]:
        """The GCS and the raylet: when either is gone, so is the cluster."""
        vital: dict[int, int] = {}
        for pid in marked(mark):
            with contextlib.suppress(OSError):
                name = Path(os.readlink(f"/proc/{pid}/exe")).name
                ticks = started(pid)
                if name in ("gcs_server", "raylet") and ticks is not None:
                    vital[pid] = ticks
        return vital if len(vital) == 2 else {}


def _command(
    record: ClusterRecord, *, metrics_port: int, client_port: int, agent_port: int
) -> list[str]:
    """`ray start`, run as a module: the script beside the interpreter may be another Ray's."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    command += [f"--port={record.gcs_port}", f"--temp-dir={record.temp}"]
    command += [f"--metrics-export-port={metrics_port}", f"--ray-client-server-port={client_port}"]
    command += [f"--dashboard-agent-listen-port={agent_port}"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
    command += ["--include-dashboard=false", "--include-log-monitor=false"]
    command += ["--log-style=record", "--log-color=false"]
    gpus = len(list(GPUS.iterdir())) if GPUS.is_dir() else 0
    return command + ([f"--num-gpus={gpus * COUNTERS_PER_GPU}"] if gpus else [])
