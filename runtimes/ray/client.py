"""The near end of `ray_child`: calls with deadlines; a child that hangs or dies is replaced."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelium.errors import ModeliumError, Unavailable

CALL_S = 30.0
"""Deadline of one call. They take 0.1 s; only a controller that is gone blocks for longer."""
CONNECT_S = 90.0
"""Joining the cluster and starting Serve: 4-10 s on two busy cores."""
WATCH_S = 1.0
"""How often a call that waits looks whether the cluster still lives."""
ANSWER_BYTES = 64 * 1024**2
"""Longest answer: the details of a few thousand applications."""
ROOT = str(Path(__file__).absolute().parents[2])
"""Where the packages are found."""


class BridgeError(ModeliumError):
    """Ray refused the call; ``type`` is the class of its exception."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.type = kind


class RayBridge:
    """One child process, connected to one cluster."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        directory: Path,
        cluster_lives: Callable[[], bool] = lambda: True,
    ) -> None:
        """``environment`` is the child's whole environment; ``directory`` keeps its log.

        ``cluster_lives``: asked while a call waits, as nobody answers it once the head is gone.
        """
        self._cluster_lives = cluster_lives
        self._environment = environment
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @property
    def alive(self) -> bool:
        """Whether calls can be made."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The child's process."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the child. Ray is imported by its first call."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Neither this folder nor the packages' root may get on the path of the replicas (Ray
        # hands on the driver's working directory): `runtimes.triton.driver` would pass for `triton`.
        elsewhere = self._directory / "cwd"
        elsewhere.mkdir(exist_ok=True)
        with self._log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "runtimes.ray.child"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**self._environment, "PYTHONPATH": ROOT},
                cwd=elsewhere,
                limit=ANSWER_BYTES,
                start_new_session=True,  # a Ctrl-C in the terminal is Modelium's to handle
            )
        self._reader = asyncio.create_task(self._read(self._process), name="ray-bridge")

    async def call(self, operation: str, *, timeout_s: float = CALL_S, **arguments: Any) -> Any:
        """Run one operation of `ray_child`.

        Raises:
            BridgeError: Ray refused it.
            Unavailable: no answer within ``timeout_s``, or child or cluster are gone. Any way it
                is of no more use: close it and start another one.
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
                    if not future.done() and not self._cluster_lives():
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
        """End the child; the applications live on."""
        if self._process is not None:
            self._kill()  # it holds nothing: Ray notices by itself
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
                answer = json.loads(line)
                future = self._waiting.get(answer["id"])
                if future is None or future.done():
                    continue  # who asked has given up
                if "error" in answer:
                    future.set_exception(BridgeError(answer["error"], kind=answer["type"]))
                else:
                    future.set_result(answer["result"])
        except ValueError:
            pass  # not JSON, or too long: nothing after it can be trusted
        self._kill()
        await process.wait()
        gone = Unavailable(f"the connection to Ray ended: {self._last_words()}")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(gone)

    def _last_words(self) -> str:
        try:
            with self._log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return "it left no log"
        return " | ".join(lines[-3:]) or "it said nothing"
