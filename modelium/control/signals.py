"""Signals from requests to the control loop and to `Demand`. Belongs to one event loop."""

from __future__ import annotations

import asyncio


class Signals:
    """A `RoutingListener` that records models in demand and wanted ticks."""

    def __init__(self) -> None:
        """Start with none."""
        self.tick_wanted = asyncio.Event()
        """Set when an upstream does not answer; the control loop clears it."""
        self._demanded: dict[str, None] = {}
        self._demand = asyncio.Event()

    def on_demand(self, model: str) -> None:
        """Requests wait for ``model``."""
        self._demanded[model] = None
        self._demand.set()

    def on_unreachable(self, model: str) -> None:
        """The upstream of ``model`` does not answer."""
        self.tick_wanted.set()

    def on_failed_answer(self, model: str) -> None:
        """``model`` answered with a server's error: perhaps its version has to go."""
        self.tick_wanted.set()

    async def demanded(self) -> tuple[str, ...]:
        """Wait until a model is in demand; return all that are, each once."""
        await self._demand.wait()
        self._demand.clear()
        models, self._demanded = tuple(self._demanded), {}
        return models
