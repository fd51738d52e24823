"""The last known status, models and statistics of every runtime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelium.errors import ModeliumError
from modelium.models import RuntimeName, RuntimeStatus
from modelium.policy import Policy
from modelium.ports import EngineStats, Running, Runtime

logger = logging.getLogger(__name__)

DEADLINE_S = 20.0
"""For all queries to one runtime; a runtime that takes longer counts as down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What one runtime answered. ``running`` is ``None`` where it did not answer."""

    status: RuntimeStatus
    running: Sequence[Running] | None = None
    stats: Mapping[str, EngineStats] = field(default_factory=dict)


class RuntimeMonitor:
    """Queries all runtimes and caches the answers, so that snapshots cost no calls."""

    def __init__(self, *, runtimes: Mapping[RuntimeName, Runtime], policy: Policy) -> None:
        """Start with no observation: `statuses` is empty until the first `observe`."""
        self._runtimes = runtimes
        self._policy = policy
        self.observations: dict[RuntimeName, Observation] = {}

    def statuses(self) -> tuple[RuntimeStatus, ...]:
        """Return the last known status of each runtime."""
        return tuple(observation.status for observation in self.observations.values())

    async def observe(
        self, handles: Mapping[RuntimeName, Mapping[str, Mapping[str, object]]]
    ) -> Mapping[RuntimeName, Observation]:
        """Query every runtime concurrently. ``handles``: of the store, by runtime and model."""
        queries = (self._one(name, handles.get(name, {})) for name in self._runtimes)
        self.observations = dict(zip(self._runtimes, await asyncio.gather(*queries), strict=True))
        return self.observations

    async def _one(
        self, name: RuntimeName, handles: Mapping[str, Mapping[str, object]]
    ) -> Observation:
        enabled = self._policy.rules(name).enabled
        try:
            async with asyncio.timeout(DEADLINE_S):
                status = await self._runtimes[name].status()
                status = status.model_copy(update={"enabled": enabled})
                if not status.healthy:
                    return Observation(status=status)
                running = await self._runtimes[name].discover(handles)
                stats = await self._runtimes[name].stats()
                return Observation(status=status, running=running, stats=stats)
        except (ModeliumError, TimeoutError) as exc:
            logger.warning(
                "%s does not answer: %s", name.value, exc or f"no answer within {DEADLINE_S:.0f} s"
            )
            detail = str(exc) or f"no answer within {DEADLINE_S:.0f} s"
            return Observation(
                status=RuntimeStatus(name=name, enabled=enabled, healthy=False, detail=detail)
            )
