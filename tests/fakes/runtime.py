"""An in-memory runtime, satisfying `ports.Runtime`, for faults that are rare in real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from modelium.models import RuntimeName, RuntimeStatus, Upstream
from modelium.ports import EngineStats, Loaded, LoadRequest, Progress, Running


class MemoryRuntime:
    """Loads without delay, unless a test closes the gate or sets a failure."""

    name = RuntimeName.RAY_SERVE

    def __init__(self) -> None:
        self.held: dict[str, Upstream] = {}
        """The loaded models."""
        self.states: dict[str, Literal["loading", "ready", "sleeping", "unhealthy"]] = {}
        """States of models in `discover` that are not ``ready``."""
        self.shown: dict[str, dict[str, Any]] = {}
        """Further fields of models in `discover`."""
        self.ills: dict[str, str] = {}
        """What `check` finds wrong with models."""
        self.pids: dict[str, tuple[int, ...]] = {}
        self.counts: dict[str, EngineStats] = {}
        self.healthy = True
        self.failure: Exception | None = None
        """The error that each load raises."""
        self.unload_failure: Exception | None = None
        self.unload_failures: dict[str, Exception] = {}
        """By model, of those alone; they do not wait for the gate."""
        self.discover_failure: Exception | None = None
        self.end_failure: Exception | None = None
        self.gate = asyncio.Event()
        """Loads wait until it is set."""
        self.gate.set()
        self.unload_gate = asyncio.Event()
        """Clear it to have unloads wait."""
        self.unload_gate.set()
        self.asked = asyncio.Event()
        """Set by each load; a test clears it."""
        self.requests: list[LoadRequest] = []
        self.reduced: dict[str, Any] = {}
        """Settings that loads are reduced to, as after a start that lacked memory."""
        self.unloads: list[tuple[str, float]] = []
        """Model and grace in seconds of each unload."""
        self.handles: Mapping[str, Mapping[str, Any]] = {}
        """The arguments of the last `discover`."""

    async def __aenter__(self) -> MemoryRuntime:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    @property
    def loads(self) -> int:
        return len(self.requests)

    async def end(self, *, grace_s: float) -> None:
        if self.end_failure:
            raise self.end_failure
        self.held.clear()

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        self.requests.append(request)
        self.asked.set()
        progress("starting", None)
        await self.gate.wait()
        progress("loading weights", 0.5)
        if self.failure:
            raise self.failure
        self.held[request.model] = upstream(request.model)
        settings = request.settings.model_copy(update=self.reduced) if self.reduced else None
        return Loaded(
            upstream=self.held[request.model], handle={"name": request.model}, settings=settings
        )

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        if failure := self.unload_failures.get(model):
            raise failure
        await self.unload_gate.wait()
        self.unloads.append((model, grace_s))
        if self.unload_failure:
            raise self.unload_failure
        self.held.pop(model, None)

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        raise AssertionError("no test uses it")

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        raise AssertionError("no test uses it")

    async def status(self) -> RuntimeStatus:
        return RuntimeStatus(name=self.name, enabled=True, healthy=self.healthy)

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        self.handles = handles
        if self.discover_failure:
            raise self.discover_failure
        return [
            Running(
                model=model,
                state=self.states.get(model, "ready"),
                upstream=where,
                pids=self.pids.get(model, ()),
                **self.shown.get(model, {}),
            )
            for model, where in self.held.items()
        ]

    async def check(self, model: str, *, handle: Mapping[str, Any]) -> str:
        return self.ills.get(model, "")

    async def stats(self) -> Mapping[str, EngineStats]:
        untouched = EngineStats(resident_bytes=50_000_000)
        return {model: self.counts.get(model, untouched) for model in self.held}


def upstream(model: str, *, port: int = 9) -> Upstream:
    """Return the address of ``model``."""
    return Upstream(host="127.0.0.1", port=port, served_name=model, apis=frozenset({"kserve"}))


def routed(model: str, *, port: int = 9) -> Upstream:
    """Return what the switchboard has for it: an ONNX model has no path of OpenAI's API."""
    return upstream(model, port=port).model_copy(update={"paths": frozenset()})
