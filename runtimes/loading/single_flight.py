"""Single flight of loads: a second load of a model joins the one in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from modelium.errors import FailureKind, LoadFailed
from modelium.ports import Loaded, Progress

Start = Callable[[Progress], Coroutine[Any, Any, Loaded]]


@dataclass(kw_only=True, slots=True)
class _Flight:
    task: asyncio.Task[Loaded] = field(init=False)
    listeners: list[Progress] = field(default_factory=list)
    waiters: int = 0

    def report(self, phase: str, share: float | None) -> None:
        for listener in tuple(self.listeners):
            listener(phase, share)


class SingleFlight:
    """Runs at most one load per model and cancels it when its last caller is cancelled."""

    def __init__(self) -> None:
        """Start with no load in flight."""
        self._flights: dict[str, _Flight] = {}

    def __contains__(self, model: object) -> bool:
        """Whether a load of ``model`` is in flight."""
        return model in self._flights

    async def run(self, model: str, start: Start, progress: Progress) -> Loaded:
        """Start a load of ``model``, or wait for the one in flight, and return its outcome.

        Args:
            model: the key of the flight.
            start: begins the load; its argument passes progress on to every caller.
            progress: called with each phase, from now on.

        Raises:
            LoadFailed: of kind ``killed`` if the model was unloaded in the meantime; otherwise
                whatever the load itself raises.
        """
        flight = self._flights.get(model)
        if flight is None:
            flight = self._flights[model] = _Flight()
            flight.task = asyncio.create_task(start(flight.report), name=f"load {model}")
            flight.task.add_done_callback(lambda task: self._remove(model, task))
        task = flight.task
        flight.listeners.append(progress)
        flight.waiters += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            current = asyncio.current_task()
            if task.cancelled() and not (current and current.cancelling()):
                raise LoadFailed(
                    f"{model} was unloaded while it was loading", kind=FailureKind.KILLED
                ) from exc
            if flight.waiters == 1:
                await _cancel(task)
            raise
        finally:
            flight.waiters -= 1
            flight.listeners.remove(progress)

    async def cancel(self, model: str | None = None) -> None:
        """Cancel the load of ``model`` (default: all) and wait until it has cleaned up."""
        for name in tuple(self._flights) if model is None else (model,):
            flight = self._flights.get(name)
            if flight:
                await _cancel(flight.task)

    def _remove(self, model: str, task: asyncio.Task[Loaded]) -> None:
        del self._flights[model]
        if not task.cancelled():
            task.exception()  # retrieved, even if every waiter was cancelled


async def _cancel(task: asyncio.Task[Loaded]) -> None:
    task.cancel()
    await asyncio.wait({task})
