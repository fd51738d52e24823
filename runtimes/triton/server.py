"""The Triton server: where it is, how it is asked, and how Modelium runs one of its own."""

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
from runtimes.process.supervisor import Command, Engine, Supervisor

CONTROL_S = 10.0
"""Index, statistics and metadata answer in milliseconds, also while a model loads."""
START_S = 60.0
"""Up in 0.2 s on a quiet machine; a container image may be cold."""
RESTART_S = 30.0
"""Between two starts of a server that does not come up."""
POLL_S = 0.2
RECONNECT = (
    # By itself gRPC waits up to two minutes before it tries a restarted server again.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
SERVER = "tritonserver"
"""Its name among the supervisor's records: not a model's, as nothing else is run there."""


class TritonServer:
    """One server, ours or the user's. Control goes over gRPC: an HTTP load freezes HTTP."""

    def __init__(
        self, *, config: TritonSection, repository: Path, directory: Path, clock: Clock
    ) -> None:
        """``repository`` is what a server of our own serves; ``directory`` keeps its log.

        Raises:
            ConfigError: an address is none.
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
        self._came_up = False
        # Its shared memory outlives a SIGKILL; the name tells whose it was.
        key = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        self._shm_prefix = f"modelium_triton_{key}_"

    async def close(self) -> None:
        """Close the connection; the server lives on."""
        if self._client:
            await self._client.close()
            self._client = None

    async def ensure(self) -> None:
        """Start the server if it is ours and not there.

        Raises:
            LoadFailed: its command cannot be run or it ends at once.
            Unavailable: it is not there (the user's), just died, or does not come up.
        """
        async with self._starting:
            if await self.answers():
                return
            if self.command is None:
                raise Unavailable(
                    f"no Triton answers at {self.address} (gRPC): start it, or correct "
                    "triton.endpoint and triton.grpc_endpoint"
                )
            engine = self._engine()
            if engine and self._supervisor.alive(engine):
                if self._clock.monotonic() - self._last_start > START_S:
                    raise Unavailable("the Triton that Modelium started does not answer")
            else:
                engine = await self._start(engine)
            await self._up(engine)

    async def stop(self, *, grace_s: float) -> None:
        """End the server if it is ours, and clear what it leaves."""
        engine = self._engine()
        if engine:
            await self._supervisor.stop(engine, grace_s=grace_s)
        self._clear_shared_memory()

    async def answers(self) -> bool:
        """Whether it is live."""
        with contextlib.suppress(Unavailable, InputError, LoadFailed, DeadlineExceeded):
            return bool(await self.ask("is_server_live"))
        return False

    async def ask(self, method: str, *arguments: Any, timeout_s: float = CONTROL_S) -> Any:
        """Call a method of Triton's client.

        Raises:
            Unavailable: nobody answers.
            DeadlineExceeded: not within ``timeout_s``.
            LoadFailed: it refused; the text is Triton's, the kind is not judged here.
        """
        if self._client is None:
            self._client = aio.InferenceServerClient(self.address, channel_args=list(RECONNECT))
        try:
            return await getattr(self._client, method)(*arguments, client_timeout=timeout_s)
        except InferenceServerException as exc:
            status, text = str(exc.status()), exc.message()
            if "DEADLINE_EXCEEDED" in status:
                raise DeadlineExceeded(f"Triton did not {method} within {timeout_s:.0f} s") from exc
            if "UNAVAILABLE" in status:
                raise Unavailable(f"Triton at {self.address} does not answer: {text}") from exc
            raise LoadFailed(text, kind=FailureKind.UNKNOWN) from exc

    def pids_of(self, model: str) -> tuple[int, ...]:
        """Processes of our server that work for ``model`` alone (python-based backends)."""
        engine = self._engine()
        if engine is None:
            return ()
        place = f"{self._repository / model}/".encode()
        return tuple(pid for pid in self._supervisor.members(engine) if place in proc.words(pid))

    def last_words(self) -> str:
        """Read the end of our server's log: it says why it could not even look at a model."""
        lines = self._supervisor.log(SERVER).tail(200) if self.command else []
        errors = [line for line in lines if line[:1] in "EW"]
        return " | ".join(line[:300] for line in errors[-3:])

    def _engine(self) -> Engine | None:
        return Engine.from_note(SERVER, self._supervisor.records().get(SERVER, {}))

    async def _start(self, dead: Engine | None) -> Engine:
        wait = self._last_start + RESTART_S - self._clock.monotonic()
        if wait > 0 and not self._came_up:
            raise Unavailable(f"Triton does not come up: {self.last_words()}", retry_after_s=wait)
        if dead:
            await self._supervisor.stop(dead, grace_s=0)
        self._clear_shared_memory()
        self._last_start, self._came_up = self._clock.monotonic(), False
        self._repository.mkdir(parents=True, exist_ok=True)
        return self._supervisor.start(SERVER, Command(argv=self._words()), {})

    async def _up(self, engine: Engine) -> None:
        deadline = self._last_start + START_S
        while not await self.answers():
            if not self._supervisor.alive(engine):
                words = self.last_words() or " | ".join(self._supervisor.log(SERVER).tail(3))
                raise LoadFailed(
                    f"Triton ended at its start: {words}", kind=FailureKind.ENVIRONMENT
                )
            if self._clock.monotonic() > deadline:
                raise Unavailable(f"Triton did not come up within {START_S:.0f} s")
            await self._clock.sleep(POLL_S)
        self._came_up = True

    def _words(self) -> tuple[str, ...]:
        """Add to the configured command what it leaves open and our control depends on."""
        command: Sequence[str] = self.command or ()
        grpc_port = int(self.address.rpartition(":")[2])
        ours: Mapping[str, str] = {
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
        said = {word.partition("=")[0] for word in command}
        added = [f"{option}={value}" for option, value in ours.items() if option not in said]
        added.append(f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}")
        return (*command, *added)

    def _clear_shared_memory(self) -> None:
        for region in Path("/dev/shm").glob(f"{self._shm_prefix}*"):  # noqa: S108 - made by Triton
            region.unlink(missing_ok=True)
