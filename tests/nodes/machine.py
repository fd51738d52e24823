"""The GPUs of a simulated machine and what runs on them, in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from modelium.errors import ModeliumError
from modelium.models import (
    GIB,
    Deployment,
    Device,
    DeviceProcess,
    RuntimeName,
    RuntimeStatus,
    Upstream,
)
from modelium.ports import Clock, EngineStats, Loaded, LoadRequest, Progress, Running

GPUS = 8
GPU_BYTES = 80 * GIB
FIRST_PID = 1_000_000


class Machine:
    """Satisfies `ports.DeviceInventory` and `ports.Runtime`; outlives the service on it.

    A load takes ``load_s`` of the clock's time, and then holds exactly what was booked for it.
    """

    name = RuntimeName.VLLM

    def __init__(
        self, node: str, *, clock: Clock, load_s: float = 0.0, gpus: int = GPUS, port: int = 9
    ) -> None:
        """Nothing is loaded; ``port``: of every engine, which nobody connects to."""
        self.node = node
        self.secret = f"secret of {node}"
        """What its disk keeps of its membership."""
        self.load_s = load_s
        self.ids = tuple(f"{node}/g{i}" for i in range(gpus))
        self.held: dict[str, Mapping[str, int]] = {}
        """Bytes by device of each loaded model, by its name in the runtime."""
        self.begun: list[tuple[float, str]] = []
        """When (monotonic) each load command came."""
        self.unloads: list[str] = []
        self.gate = asyncio.Event()
        """Loads wait until it is set."""
        self.gate.set()
        self.stuck: ModeliumError | None = None
        """What an unload fails with."""
        self.clock = clock
        self._port = port
        self._pids: dict[str, int] = {}
        self._numbers = itertools.count(FIRST_PID)

    def hold(self, deployment: Deployment, held: Mapping[str, int]) -> None:
        """Have ``deployment`` loaded, as an earlier life of the service left it."""
        self._hold(deployment.name, held)

    def upstream(self, model: str) -> Upstream:
        """Return where ``model`` answers."""
        return Upstream(
            host="127.0.0.1", port=self._port, served_name=model, apis=frozenset({"openai"})
        )

    # --- ports.DeviceInventory --------------------------------------------------------------

    def snapshot(self) -> tuple[Device, ...]:
        """Return the GPUs as they are used."""
        return tuple(self._device(index, id) for index, id in enumerate(self.ids))

    # --- ports.Runtime ------------------------------------------------------------------------

    async def __aenter__(self) -> Machine:
        """Start nothing."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave the engines running."""

    async def status(self) -> RuntimeStatus:
        """Return that it is healthy."""
        return RuntimeStatus(name=self.name, enabled=True, healthy=True, version="1")

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        """Load a model."""
        self.begun.append((self.clock.monotonic(), request.model))
        await self.gate.wait()
        if self.load_s:
            await self.clock.sleep(self.load_s)
        self._hold(request.model, request.reserve)
        return Loaded(upstream=self.upstream(request.model), handle={"name": request.model})

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        """Unload a model."""
        self.unloads.append(model)
        if self.stuck is not None:
            raise self.stuck
        self.held.pop(model, None)

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Never called: it cannot sleep."""
        raise AssertionError("it cannot sleep")

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Never called: it cannot sleep."""
        raise AssertionError("it cannot sleep")

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """Return the loaded models."""
        return [
            Running(
                model=name,
                state="ready",
                upstream=self.upstream(name),
                pids=(self._pids[name],),
                own=True,
            )
            for name in self.held
        ]

    async def check(self, model: str, *, handle: Mapping[str, Any]) -> str:
        """Return that nothing is wrong."""
        return ""

    async def stats(self) -> Mapping[str, EngineStats]:
        """Return no figures."""
        return {}

    async def end(self, *, grace_s: float) -> None:
        """Unload everything."""
        self.held.clear()

    # --- what it is made of -------------------------------------------------------------------

    def _hold(self, name: str, held: Mapping[str, int]) -> None:
        self._pids[name] = next(self._numbers)
        self.held[name] = {id: used for id, used in held.items() if id in self.ids}

    def _device(self, index: int, id: str) -> Device:
        on = {name: used[id] for name, used in self.held.items() if id in used}
        return Device(
            node=self.node,
            uuid=id.partition("/")[2],
            kind="gpu",
            index=index,
            name="H100",
            total_bytes=GPU_BYTES,
            free_bytes=GPU_BYTES - sum(on.values()),
            processes=tuple(
                DeviceProcess(pid=self._pids[name], used_bytes=used) for name, used in on.items()
            ),
        )
