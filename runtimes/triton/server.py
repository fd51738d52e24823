"""The Triton server: its address, gRPC calls to it, and running one of Modelium's own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from modelium.config import Triton as TritonSection
from modelium.errors import (
    ConfigError,
    DeadlineExceeded,
    FailureKind,
    InputError,
    LoadFailed,
    Unavailable,
)
from modelium.ports import Clock
from runtimes.process import proc
from runtimes.process.supervisor import Command, EngineProcess, Supervisor

CONTROL_S = 10.0
"""Index, statistics and metadata answer in milliseconds, even while a model loads."""
START_S = 60.0
"""A start takes 0.2 s on an idle machine; a cold container image takes longer."""
RESTART_S = 30.0
"""Between two starts of a server that does not become live."""
POLL_S = 0.2
RECONNECT = (
    # By default gRPC waits up to two minutes before it reconnects to a restarted server.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
ENVIRONMENT = {
    # Triton's GPU numbers are those of NVML only in the order of the PCI bus.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}
SERVER = "tritonserver"
"""Key of its record and log in its own supervisor, where no model has one."""


class TritonServer:
    """One server, Modelium's own or the user's. Control uses gRPC: a load over HTTP blocks HTTP."""

    def __init__(
        self, *, config: TritonSection, repository: Path, directory: Path, clock: Clock
    ) -> None:
        """A server of Modelium's own serves ``repository`` and logs to ``directory``.

        Raises:
            ConfigError: an address is invalid.
        """
        address = urlsplit(config.endpoint)
        try:
            port = address.port or 80
        except ValueError as exc:
            raise ConfigError(f"triton.endpoint {config.endpoint!r}: {exc}") from exc
        if address.scheme != "http" or not address.hostname:
            raise ConfigError("triton.endpoint must be http://HOST:PORT")
        self.host, self.port = address.hostname, port
        self.address = config.grpc_address
        self.command = config.command
        self._repository = repository
        self._directory = directory
        self._supervisor = Supervisor(directory=directory, clock=clock)
        self._clock = clock
        self._client: aio.InferenceServerClient | None = None
        self._starting = asyncio.Lock()
        self._last_start = float("-inf")
        self._was_live = False
        # Its shared memory survives a SIGKILL; the prefix tells which server it belonged to.
        key = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        self._shm_prefix = f"modelium_triton_{key}_"

    async def close(self) -> None:
        """Close the connection; the server keeps running."""
        if self._client:
            await self._client.close()
            self._client = None

    async def ensure_running(self) -> None:
        """Start a server of Modelium's own unless it answers.

        Raises:
            LoadFailed: its command cannot be run, or it exited during its start.
            Unavailable: the user's server does not answer; or Modelium's own does not become live.
        """
        async with self._starting:
            if await self.answers():
                return
            if self.command is None:
                raise Unavailable(
                    f"no Triton server answers at {self.address} (gRPC): start it, or correct "
                    "triton.endpoint and triton.grpc_endpoint"
                )
            process = self._process()
            if process and self._supervisor.alive(process):
                if self._clock.monotonic() - self._last_start > START_S:
                    raise Unavailable("the Triton server that Modelium started does not answer")
            else:
                process = await self._start(process)
            await self._wait_until_live(process)

    async def stop(self, *, grace_s: float) -> None:
        """Stop a server of Modelium's own and remove the shared memory that it leaves."""
        process = self._process()
        if process:
            await self._supervisor.stop(process, grace_s=grace_s)
        self._remove_shared_memory()

    async def answers(self) -> bool:
        """Whether the server answers that it is live."""
        with contextlib.suppress(Unavailable, InputError, LoadFailed, DeadlineExceeded):
            return bool(await self.call("is_server_live"))
        return False

    async def call(
        self, method: str, *arguments: Any, timeout_s: float = CONTROL_S, **named: Any
    ) -> Any:
        """Call a method of Triton's client and return its answer.

        Raises:
            Unavailable: the server does not answer.
            DeadlineExceeded: no answer within ``timeout_s``.
            LoadFailed: the server refused; the text is Triton's and the kind is unknown.
        """
        if self._client is None:
            self._client = aio.InferenceServerClient(self.address, channel_args=list(RECONNECT))
        try:
            return await getattr(self._client, method)(
                *arguments, client_timeout=timeout_s, **named
            )
        except InferenceServerException as exc:
            status, text = str(exc.status()), exc.message()
            if "DEADLINE_EXCEEDED" in status:
                raise DeadlineExceeded(
                    f"Triton did not answer {method} within {timeout_s:.0f} s"
                ) from exc
            if "UNAVAILABLE" in status:
                raise Unavailable(f"Triton at {self.address} does not answer: {text}") from exc
            raise LoadFailed(text, kind=FailureKind.UNKNOWN) from exc

    def pids_of(self, name: str) -> tuple[int, ...]:
        """Return the processes of our server for the entry ``name`` alone (python backends)."""
        process = self._process()
        if process is None:
            return ()
        entry = f"{self._repository / name}/".encode()
        members = self._supervisor.members(process)
        return tuple(pid for pid in members if entry in proc.command_line(pid))

    def log_excerpt(self) -> str:
        """Return the last errors and warnings in the log of our server."""
        lines = self._supervisor.log(SERVER).tail(200) if self.command else []
        errors = [line for line in lines if line[:1] in "EW"]
        return " | ".join(line[:300] for line in errors[-3:])

    def _process(self) -> EngineProcess | None:
        return EngineProcess.from_record(SERVER, self._supervisor.records().get(SERVER, {}))

    async def _start(self, dead: EngineProcess | None) -> EngineProcess:
        wait = self._last_start + RESTART_S - self._clock.monotonic()
        if wait > 0 and not self._was_live:
            raise Unavailable(f"Triton does not start: {self.log_excerpt()}", retry_after_s=wait)
        if dead:
            await self._supervisor.stop(dead, grace_s=0)
        self._remove_shared_memory()
        self._last_start, self._was_live = self._clock.monotonic(), False
        self._repository.mkdir(parents=True, exist_ok=True)
        command = Command(argv=self._command_line(), environment=ENVIRONMENT)
        return self._supervisor.start(SERVER, command, {})

    async def _wait_until_live(self, process: EngineProcess) -> None:
        deadline = self._last_start + START_S
        while not await self.answers():
            if not self._supervisor.alive(process):
                excerpt = self.log_excerpt() or " | ".join(self._supervisor.log(SERVER).tail(3))
                raise LoadFailed(
                    f"Triton exited during its start: {excerpt}", kind=FailureKind.ENVIRONMENT
                )
            if self._clock.monotonic() > deadline:
                raise Unavailable(f"Triton was not live within {START_S:.0f} s")
            await self._clock.sleep(POLL_S)
        self._was_live = True

    def _command_line(self) -> tuple[str, ...]:
        """Return the configured command with the options that it leaves open and we depend on."""
        command: Sequence[str] = self.command or ()
        grpc_port = int(self.address.rpartition(":")[2])
        required: Mapping[str, str] = {
            "--model-repository": str(self._repository),
            "--model-control-mode": "explicit",
            "--http-address": self.host,
            "--http-port": str(self.port),
            "--grpc-address": self.address.rpartition(":")[0],
            "--grpc-port": str(grpc_port),
            "--metrics-address": self.host,
            "--metrics-port": str(grpc_port + 1),
            "--exit-on-error": "false",
            "--strict-readiness": "false",
        }
        given = {argument.partition("=")[0] for argument in command}
        added = [f"{option}={value}" for option, value in required.items() if option not in given]
        added.append(f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}")
        return (*command, *added)

    def _remove_shared_memory(self) -> None:
        for region in Path("/dev/shm").glob(f"{self._shm_prefix}*"):  # noqa: S108 - made by Triton
            region.unlink(missing_ok=True)
