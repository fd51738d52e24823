"""Calls to Ray, with deadlines, through a child process that can be replaced when it hangs."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from modelium.errors import ModeliumError, Unavailable
from runtimes.process.engine_log import EngineLog
from runtimes.process.fresh_file import fresh_file

CALL_S = 30.0
"""Deadline of one call. Calls take 0.1 s unless Serve's controller is gone."""
CONNECT_S = 90.0
"""Deadline of connecting and starting Serve, which take 4-10 s on two busy cores."""
WATCH_S = 1.0
"""How often a waiting call checks that the cluster is still alive."""
RESPONSE_BYTES = 64 * 1024**2
"""Longest response: the status of a few thousand applications."""
ROOT = str(Path(__file__).absolute().parents[2])
"""The folder that contains the packages."""


class Confined(Protocol):
    """Confines a command, as `runtimes.ray.cluster.LocalCluster.confined` does."""

    def __call__(
        self, command: Sequence[str], environment: Mapping[str, str], *, work: Path
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command and the environment to start instead; ``work``: its own folder."""
        ...


def unconfined(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    work: Path,
) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return both as they are."""
    return command, environment


class RayError(ModeliumError):
    """Ray refused a call; ``type`` is the class of its exception."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.type = kind


class RayClient:
    """One child process, connected to one cluster."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        directory: Path,
        cluster_alive: Callable[[], bool] = lambda: True,
        confined: Confined = unconfined,
    ) -> None:
        """Prepare; `start` starts the child.

        Args:
            environment: the whole environment of the child.
            directory: keeps its log.
            cluster_alive: checked while a call waits: without a head node it gets no response.
            confined: confines the child: Ray unpickles in it what replicas send, which runs code.
        """
        self._confined = confined
        self._cluster_alive = cluster_alive
        self._environment = environment
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The pid of the child; None before `start` and after `close`."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the child. It imports Ray with the first call."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Ray adds the working directory to the path of the replicas, so it has to be empty: below
        # the packages' root, for one, `runtimes/triton` would be imported as `triton`.
        working_directory = self._directory / "cwd"
        working_directory.mkdir(exist_ok=True)
        argv, variables = self._confined(
            # -P: no module is imported from the working directory.
            (sys.executable, "-P", "-m", "runtimes.ray.client_process"),
            {**self._environment, "PYTHONPATH": ROOT},
            work=self._directory / "client",
        )
        with fresh_file(self._log_path) as log:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=variables,
                cwd=working_directory,
                limit=RESPONSE_BYTES,
                start_new_session=True,  # Ctrl-C in the terminal is for Modelium alone
            )
        self._reader = asyncio.create_task(self._read(self._process), name="ray-client")

    async def call(self, operation: str, *, timeout_s: float = CALL_S, **arguments: Any) -> Any:
        """Run one operation of `runtimes.ray.client_process` and return its result.

        Raises:
            RayError: Ray refused it.
            Unavailable: no response within ``timeout_s``, or the child or the cluster is gone. The
                client is unusable then: close it and start another one.
        """
        process = self._process
        if process is None or process.stdin is None or not self.alive:
            raise Unavailable(f"the connection to Ray is closed: see {self._log_path}")
        number = next(self._ids)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "op": operation, **arguments})
        try:
            async with asyncio.timeout(timeout_s):
                process.stdin.write(line.encode() + b"\n")
                await process.stdin.drain()
                while not future.done():
                    await asyncio.wait({future}, timeout=WATCH_S)
                    if not future.done() and not self._cluster_alive():
                        self._kill()
                        raise Unavailable(f"the Ray cluster died during `{operation}`")
                return future.result()
        except TimeoutError as exc:
            self._kill()
            raise Unavailable(f"Ray did not answer `{operation}` in {timeout_s:.0f} s") from exc
        except OSError as exc:
            raise Unavailable(f"the connection to Ray broke: see {self._log_path}") from exc
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Kill the child; the applications keep running."""
        if self._process is not None:
            self._kill()  # it holds no state, and Ray notices its end
            await self._process.wait()
        if self._reader is not None:
            await self._reader
        self._process = self._reader = None

    @property
    def _log_path(self) -> Path:
        return self._directory / "child.log"

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101
        try:
            while line := await process.stdout.readline():
                response = json.loads(line)
                future = self._waiting.get(response["id"])
                if future is None or future.done():
                    continue  # the caller has given up
                if "error" in response:
                    future.set_exception(RayError(response["error"], kind=response["type"]))
                else:
                    future.set_result(response["result"])
        except ValueError:
            pass  # not JSON, or too long: what follows is unusable
        self._kill()
        await process.wait()
        gone = Unavailable(f"the connection to Ray ended: {self._log_excerpt()}")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(gone)

    def _log_excerpt(self) -> str:
        return " | ".join(EngineLog(path=self._log_path).tail(3)) or "its log is empty"
