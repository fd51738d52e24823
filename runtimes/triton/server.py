"""The Triton server: its address, gRPC calls to it, and running one of Modelium's own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelium.config import Triton as TritonSection
from modelium.errors import (
    DeadlineExceeded,
    FailureKind,
    InputError,
    LoadFailed,
    Unavailable,
)
from modelium.models import Device
from modelium.ports import Clock, DeviceInventory
from runtimes.process import proc
from runtimes.process.patience import Look, Patience
from runtimes.process.sandbox import Sandbox
from runtimes.process.supervisor import Command, EngineProcess, Supervisor
from runtimes.triton.doors import Doors, given_options, live_problem

if TYPE_CHECKING:
    from tritonclient.grpc import aio

logger = logging.getLogger(__name__)

CONTROL_S = 10.0
"""Index, statistics and metadata answer in milliseconds, even while a model loads."""
START_S = 60.0
"""A start takes 0.2 s on an idle machine; a cold container image takes longer."""
RESTART_GRACE_S = 10.0
"""For requests in flight when its options have changed; nobody else knows its old address."""
RESTART_S = 30.0
"""Between two starts of a server that does not become live."""
POLL_S = 0.2
LOG_LINES = 200
"""Lines of the log in which the reason for a failed load is looked for."""
RECONNECT = (
    # By default gRPC waits up to two minutes before it reconnects to a restarted server.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
ENVIRONMENT = {
    # Triton's GPU numbers are those of NVML only in the order of the PCI bus.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # A name in an entry is a folder, or nothing: python backends, vLLM's too, download none.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
PYTHON_BACKEND = Path("/tmp")  # noqa: S108
"""Where Triton's python backend makes a folder, whatever TMPDIR says, or ends the server."""
SERVER = "tritonserver"
"""Key of its record and log in its own supervisor, where no model has one."""


class TritonServer:
    """One server, Modelium's own or the user's. Control uses gRPC: a load over HTTP blocks HTTP."""

    def __init__(
        self,
        *,
        config: TritonSection,
        repository: Path,
        directory: Path,
        clock: Clock,
        devices: DeviceInventory,
        sandbox: Sandbox | None = None,
    ) -> None:
        """A server of Modelium's own serves ``repository`` and logs to ``directory``.

        It sees the GPUs of ``devices`` and no other: it takes memory on each that it sees.

        Raises:
            ConfigError: an address is invalid.
        """
        self.command = config.command
        self.doors = Doors.of(config, directory)
        self._repository = repository
        self._directory = directory
        self._supervisor = Supervisor(directory=directory, clock=clock, sandbox=sandbox)
        self._clock = clock
        self._devices = devices
        self._client: aio.InferenceServerClient | None = None
        self._starting = asyncio.Lock()
        self._patience = Patience(limit_s=config.unhealthy_after_seconds)
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
        """Start a server of Modelium's own unless it serves.

        One with older options is restarted, and one that has not answered for too long.

        Raises:
            LoadFailed: its command cannot be run, or it exited during its start.
            Unavailable: the user's server does not answer; or Modelium's own does not become live.
        """
        async with self._starting:
            process = self._process() if self.command is not None else None
            if process is not None:
                await self._supervisor.log(SERVER).rotate()
            running = process is not None and self._supervisor.alive(process)
            if process and running and self._outdated():
                logger.warning("Triton is restarted: its options in the configuration have changed")
                await self.stop(grace_s=RESTART_GRACE_S)
                process, running = None, False
            problem = await self._problem()
            lost = process is not None and running and self._is_lost(process, problem)
            if not problem:
                return
            if self.command is None:
                raise Unavailable(problem)
            if process and running and not lost:
                if self._clock.monotonic() - self._last_start > START_S:
                    raise Unavailable(f"the Triton server that Modelium started: {problem}")
            else:
                process = await self._start(process, await self._gpus())
            await self._wait_until_live(process)

    async def stop(self, *, grace_s: float) -> None:
        """Stop a server of Modelium's own and remove the shared memory that it leaves."""
        process = self._process()
        if process:
            await self._supervisor.stop(process, grace_s=grace_s)
        self._remove_shared_memory()

    @property
    def lives(self) -> bool:
        """Whether the process of a server of Modelium's own runs, silent or not."""
        process = self._process() if self.command is not None else None
        return process is not None and self._supervisor.alive(process)

    async def answers(self) -> bool:
        """Whether the server answers over gRPC that it is live."""
        with contextlib.suppress(Unavailable, InputError, LoadFailed, DeadlineExceeded):
            return bool(await self.call("is_server_live"))
        return False

    def _is_lost(self, process: EngineProcess, problem: str) -> bool:
        """Whether our server, whose process lives, has not answered for too long."""
        pids = self._supervisor.members(process) if problem else ()
        look = Look(at=self._clock.monotonic(), answered=not problem, cpu_s=proc.cpu_s(pids))
        silence = self._patience.look(SERVER, look)
        if silence is None:
            return False
        logger.warning("Triton: %s (for %.0f s)", problem, silence.seconds)
        return silence.lost

    async def _problem(self) -> str:
        """Return why the server cannot serve, over gRPC or HTTP; empty if it can."""
        if not await self.answers():
            return f"no Triton server answers at {self.doors.grpc} (gRPC): {self.doors.advice}"
        found = await live_problem(self.doors)
        return found and (
            f"Triton answers at {self.doors.grpc} (gRPC), but {self.doors.http}, where requests "
            f"go, {found}: correct triton.endpoint, or Triton's --http-address and --http-port"
        )

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
            await asyncio.to_thread(_import_client)
        from tritonclient.grpc import aio
        from tritonclient.utils import InferenceServerException

        if self._client is None:
            self._client = aio.InferenceServerClient(self.doors.grpc, channel_args=list(RECONNECT))
        try:
            return await getattr(self._client, method)(
                *arguments, client_timeout=timeout_s, headers=self.doors.grpc_headers(), **named
            )
        except InferenceServerException as exc:
            status, text = str(exc.status()), exc.message()
            if "DEADLINE_EXCEEDED" in status:
                raise DeadlineExceeded(
                    f"Triton did not answer {method} within {timeout_s:.0f} s"
                ) from exc
            if "UNAVAILABLE" in status:
                raise Unavailable(f"Triton at {self.doors.grpc} does not answer: {text}") from exc
            raise LoadFailed(text, kind=FailureKind.UNKNOWN) from exc

    def number_of(self, device: Device) -> int:
        """Return the number that the server has for the GPU ``device``.

        Our server numbers the GPUs that it was given. A server of the user's is expected to see
        all of them in the order of NVML.

        Raises:
            LoadFailed: our server was started before the GPU was there.
        """
        gpus = self._supervisor.records().get(SERVER, {}).get("gpus") if self.command else None
        if gpus is None:
            return device.index
        if device.uuid not in gpus:
            raise LoadFailed(
                f"the Triton server that runs does not see GPU {device.label}: `modelium down` "
                "ends it, and the next start gives it all GPUs",
                kind=FailureKind.ENVIRONMENT,
            )
        return int(gpus.index(device.uuid))

    def pids_of(self, name: str) -> tuple[int, ...]:
        """Return the processes of our server for the entry ``name`` alone (python backends)."""
        process = self._process()
        if process is None:
            return ()
        entry = f"{self._repository / name}/".encode()
        members = self._supervisor.members(process)
        return tuple(pid for pid in members if entry in proc.command_line(pid))

    def log_lines(self) -> list[str]:
        """Return the last lines in the log of our server, oldest first; none of the user's."""
        return self._supervisor.log(SERVER).tail(LOG_LINES) if self.command else []

    def log_excerpt(self) -> str:
        """Return the last errors and warnings in the log of our server."""
        errors = [line for line in self.log_lines() if line[:1] in "EW"]
        return " | ".join(line[:300] for line in errors[-3:])

    def _process(self) -> EngineProcess | None:
        return EngineProcess.from_record(SERVER, self._supervisor.records().get(SERVER, {}))

    def _outdated(self) -> bool:
        """Whether our server was started with other options; unknown of older records."""
        recorded = self._supervisor.records().get(SERVER, {}).get("argv")
        return recorded is not None and recorded != list(self._command_line())

    async def _gpus(self) -> list[str]:
        """Return the UUIDs of the GPUs that a server of ours may use, in the order of NVML."""
        found = await asyncio.to_thread(self._devices.snapshot)
        gpus = [device for device in found if device.kind == "gpu"]
        return [gpu.uuid for gpu in sorted(gpus, key=lambda gpu: (gpu.index, gpu.mig or 0))]

    async def _start(self, dead: EngineProcess | None, gpus: Sequence[str]) -> EngineProcess:
        wait = self._last_start + RESTART_S - self._clock.monotonic()
        if wait > 0 and not self._was_live:
            raise Unavailable(f"Triton does not start: {self.log_excerpt()}", retry_after_s=wait)
        if dead:
            await self._supervisor.stop(dead, grace_s=0)
            self._patience.forget(SERVER)
        self._remove_shared_memory()
        self._last_start, self._was_live = self._clock.monotonic(), False
        self._repository.mkdir(parents=True, exist_ok=True)
        self.doors.prepare()
        command = Command(
            argv=self._command_line(),
            environment={**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ",".join(gpus)},
            writable=(*filter(None, [self.doors.folder]), PYTHON_BACKEND),
        )
        details = {"argv": list(command.argv), "gpus": list(gpus)}
        return self._supervisor.start(SERVER, command, details)

    async def _wait_until_live(self, process: EngineProcess) -> None:
        deadline = self._last_start + START_S
        while problem := await self._problem():
            if not self._supervisor.alive(process):
                excerpt = self.log_excerpt() or " | ".join(self._supervisor.log(SERVER).tail(3))
                raise LoadFailed(
                    f"Triton exited during its start: {excerpt}", kind=FailureKind.ENVIRONMENT
                )
            if self._clock.monotonic() > deadline:
                raise Unavailable(f"Triton was not live within {START_S:.0f} s: {problem}")
            await self._clock.sleep(POLL_S)
        self._was_live = True

    def _command_line(self) -> tuple[str, ...]:
        """Return the configured command with the options that it leaves open and we depend on."""
        command: Sequence[str] = self.command or ()
        required: Mapping[str, str] = {
            "--model-repository": str(self._repository),
            "--model-control-mode": "explicit",
            "--exit-on-error": "false",
            "--strict-readiness": "false",
            **self.doors.options(),
        }
        given = given_options(command)
        added = [f"{option}={value}" for option, value in required.items() if option not in given]
        added.append(f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}")
        return (*command, *added)

    def _remove_shared_memory(self) -> None:
        for region in Path("/dev/shm").glob(f"{self._shm_prefix}*"):  # noqa: S108 - made by Triton
            region.unlink(missing_ok=True)


def _import_client() -> None:
    """Import Triton's client and its configuration's messages, which takes most of a second."""
    import tritonclient.grpc.aio
    import tritonclient.grpc.model_config_pb2  # noqa: F401
