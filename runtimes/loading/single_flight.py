"""Loads that are under way: a second one of the same model joins the first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from modelium.errors import FailureKind, LoadFailed
from modelium.ports import Loaded, Progress

Start = Callable[[Progress], Coroutine[Any, Any, Loaded]]


@dataclass(kw_only=True, slots=True)
class _Load:
    listeners: list[Progress] = field(default_factory=list)
    task: asyncio.Task[Loaded] | None = None
    waiting: int = 0

    def tell(self, phase: str, share: float | None) -> None:
        for listener in tuple(self.listeners):
            listener(phase, share)


class JoinedLoads:
    """One task per model; it is cancelled when nobody waits for it any more."""

    def __init__(self) -> None:
        """Start with nothing under way."""
        self._loads: dict[str, _Load] = {}

    def __contains__(self, model: object) -> bool:
        """Whether ``model`` is being loaded."""
        return model in self._loads

    async def run(self, model: str, start: Start, progress: Progress) -> Loaded:
        """Start a load of ``model``, or wait with those who wait for it.

        Raises:
            LoadFailed: of kind ``killed``: the model was unloaded meanwhile; or what the load
                itself raises.
        """
        load = self._loads.get(model)
        if load is None:
            load = self._loads[model] = _Load()
            load.task = asyncio.create_task(start(load.tell), name=f"load {model}")
            load.task.add_done_callback(lambda _task: self._drop(model, load))
        assert load.task is not None  # noqa: S101 - set where it was made
        task = load.task
        load.listeners.append(progress)
        load.waiting += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            current = asyncio.current_task()
            if task.cancelled() and not (current and current.cancelling()):
                raise LoadFailed(
                    f"{model} was unloaded while it was loading", kind=FailureKind.KILLED
                ) from exc
            if load.waiting == 1:
                await _end(task)
            raise
        finally:
            load.waiting -= 1
            load.listeners.remove(progress)

    async def cancel(self, model: str | None = None) -> None:
        """End the load of ``model`` (default: all) and wait until it cleaned up."""
        for name in tuple(self._loads) if model is None else (model,):
            load = self._loads.get(name)
            if load and load.task:
                await _end(load.task)

    def _drop(self, model: str, load: _Load) -> None:
        if self._loads.get(model) is load:
            del self._loads[model]
        if load.task and not load.task.cancelled():
            load.task.exception()  # seen, even if every waiter was cancelled


async def _end(task: asyncio.Task[Loaded]) -> None:
    task.cancel()
    await asyncio.wait({task})
