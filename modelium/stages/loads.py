"""The loads that this process is at, so that one can be ended (no I/O here)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from modelium.models import Report


@dataclass(kw_only=True, slots=True)
class _Load:
    task: asyncio.Task[Report]
    aborted: bool = False


class Loads:
    """The loads that this process is at, by model. Belongs to one event loop."""

    def __init__(self) -> None:
        """Start with none."""
        self._loads: dict[str, _Load] = {}

    def __contains__(self, model: str) -> bool:
        """Whether this process loads ``model``."""
        return model in self._loads

    def __iter__(self) -> Iterator[str]:
        """The models that this process loads."""
        return iter(tuple(self._loads))

    def is_aborted(self, model: str) -> bool:
        """Whether its load is being aborted, rather than cancelled with its run."""
        load = self._loads.get(model)
        return load is not None and load.aborted

    async def run(self, model: str, work: Coroutine[Any, Any, Report]) -> Report | None:
        """Do ``work``, the load of ``model``, and return its report; None where it was aborted.

        Cancelling it cancels ``work`` and waits for its clean-up.
        """
        load = _Load(task=asyncio.create_task(work, name=f"load {model}"))
        self._loads[model] = load
        try:
            await asyncio.wait({load.task})
        except asyncio.CancelledError:
            load.task.cancel()
            await asyncio.wait({load.task})
            raise
        finally:
            if self._loads.get(model) is load:
                del self._loads[model]
        if load.aborted and (load.task.cancelled() or load.task.exception() is not None):
            return None
        return load.task.result()

    async def abort(self, model: str) -> bool:
        """Abort the load of ``model`` and wait for its clean-up; False where there is none."""
        load = self._loads.get(model)
        if load is None:
            return False
        load.aborted = True
        load.task.cancel()
        await asyncio.wait({load.task})
        return True
