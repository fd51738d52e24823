"""What running engines count, and whether one that does not answer is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

import httpx

from modelium.ports import Clock, EngineStats
from runtimes.engines.client import EngineClient
from runtimes.engines.instance import EngineInstance
from runtimes.process import proc
from runtimes.process.patience import Look, Patience
from runtimes.process.supervisor import Supervisor

logger = logging.getLogger(__name__)


class EngineVitals:
    """Measures engines, and has patience with those that do not answer."""

    def __init__(
        self, *, client: EngineClient, supervisor: Supervisor, clock: Clock, patience: Patience
    ) -> None:
        """Know nothing of any engine yet."""
        self._client = client
        self._supervisor = supervisor
        self._clock = clock
        self._patience = patience
        self._last: dict[str, EngineStats] = {}

    def forget(self, model: str) -> None:
        """Forget the engine of ``model``, which has ended."""
        self._last.pop(model, None)
        self._patience.forget(model)

    def is_lost(self, instance: EngineInstance, pids: tuple[int, ...], problem: str) -> bool:
        """Whether an engine has not answered for too long; ``problem``: of the look just made."""
        last = self._last.get(instance.model, EngineStats())
        silence = self._patience.look(
            instance.model,
            Look(
                at=self._clock.monotonic(),
                answered=not problem,
                cpu_s=proc.cpu_s(pids) if problem else 0.0,
                in_flight=last.running + last.waiting,
            ),
        )
        if silence is None:
            return False
        logger.warning("%s: %s (for %.0f s)", instance.model, problem, silence.seconds)
        return silence.lost

    async def stats(self, adopted: Mapping[str, EngineInstance]) -> Mapping[str, EngineStats]:
        """Return the counters of ``adopted`` engines; those that do not answer are left out."""
        instances = tuple(adopted.values())
        found = await asyncio.gather(*(self._stats(each, adopted) for each in instances))
        return {
            instance.model: stats
            for instance, stats in zip(instances, found, strict=True)
            if stats is not None
        }

    async def _stats(
        self, instance: EngineInstance, adopted: Collection[str]
    ) -> EngineStats | None:
        model = instance.model
        try:
            stats = await self._client.stats(instance.upstream)
        except httpx.HTTPError:
            return None
        last = self._last.get(model, EngineStats())
        active = stats.running or (stats.completed, stats.generated_tokens, stats.prompt_tokens) > (
            (last.completed, last.generated_tokens, last.prompt_tokens)
        )
        resident = None
        if not instance.gpus:
            pids = self._supervisor.members(instance.process)
            resident = await asyncio.to_thread(proc.resident_bytes, pids)
        stats = replace(
            stats,
            last_inference_at=self._clock.time() if active else last.last_inference_at,
            resident_bytes=resident,
        )
        if model in adopted:  # it may have ended meanwhile
            self._last[model] = stats
        return stats
