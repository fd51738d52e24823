"""A runtime in memory, satisfying `ports.Runtime`: for the faults that real ones seldom show."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from modelium.models import RuntimeName, RuntimeStatus, Upstream
from modelium.ports import EngineStats, Loaded, LoadRequest, Progress, Running


class MemoryRuntime:
    """Loads at once, unless told otherwise."""

    name = RuntimeName.RAY_SERVE

    def __init__(self) -> None:
        self.held: dict[str, Upstream] = {}
        self.failure: Exception | None = None
        self.end_failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.requests: list[LoadRequest] = []
        self.healthy = True
        self.counts: dict[str, EngineStats] = {}

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
        progress("starting", None)
        await self.gate.wait()
        progress("loading weights", 0.5)
        if self.failure:
            raise self.failure
        self.held[request.model] = Upstream(
            host="127.0.0.1", port=9, served_name=request.model, apis=frozenset({"kserve"})
        )
        return Loaded(upstream=self.held[request.model], handle={"name": request.model})

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        self.held.pop(model, None)

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        raise AssertionError("not asked for")

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        raise AssertionError("not asked for")

    async def status(self) -> RuntimeStatus:
        return RuntimeStatus(name=self.name, enabled=True, healthy=self.healthy)

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        return [
            Running(model=model, state="ready", upstream=upstream)
            for model, upstream in self.held.items()
        ]

    async def stats(self) -> Mapping[str, EngineStats]:
        untouched = EngineStats(resident_bytes=50_000_000)
        return {model: self.counts.get(model, untouched) for model in self.held}
