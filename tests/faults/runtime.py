"""A runtime that lives on when the service dies, in virtual time, with points at each call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from modelium.models import RuntimeStatus
from modelium.ports import EngineStats, Loaded, LoadRequest, Progress, Running
from tests.fakes.runtime import MemoryRuntime, upstream
from tests.faults.points import Points

LOAD_S = 2.0
UNLOAD_S = 0.5


class EngineHost(MemoryRuntime):
    """Loads take `LOAD_S`, and go on without whoever asked for them, as processes do."""

    def __init__(self, points: Points) -> None:
        """Each call is a point of ``points``, before and after its effect."""
        super().__init__()
        self._points = points

    def at(self, name: str) -> None:
        """Come by a point."""
        self._points.at("driver", name)

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        self.at("load")
        self.requests.append(request)
        if request.model not in self.held:
            self.held[request.model] = upstream(request.model)
            self.states[request.model] = "loading"
        try:
            await asyncio.sleep(LOAD_S)
            if self.failure:
                raise self.failure
            self.at("load, answering")
        except BaseException:
            if not self._points.dead:  # else nobody is left to clean up
                self._forget(request.model)
            raise
        if request.model not in self.held:
            raise asyncio.CancelledError
        self.states.pop(request.model, None)
        return Loaded(upstream=self.held[request.model], handle={"name": request.model})

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        self.at("unload")
        if model in self.held:
            await asyncio.sleep(UNLOAD_S)
        if self.unload_failure:
            raise self.unload_failure
        self._forget(model)
        self.at("unload, done")

    async def status(self) -> RuntimeStatus:
        self.at("status")
        return await super().status()

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        self.at("discover")
        return await super().discover(handles)

    async def stats(self) -> Mapping[str, EngineStats]:
        self.at("stats")
        return await super().stats()

    def lose(self, model: str) -> None:
        """Have the engine of ``model`` die."""
        self._forget(model)

    def _forget(self, model: str) -> None:
        self.held.pop(model, None)
        self.states.pop(model, None)
