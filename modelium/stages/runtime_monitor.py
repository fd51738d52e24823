"""What the runtimes were last seen to be and to run."""

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

LOOK_DEADLINE_S = 20.0
"""For one look at one runtime; a runtime that takes longer counts as down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """One look at one runtime. ``running`` is ``None`` where it could not be asked."""

    status: RuntimeStatus
    running: Sequence[Running] | None = None
    stats: Mapping[str, EngineStats] = field(default_factory=dict)


class Observer:
    """Looks at all runtimes and remembers the last look, so that snapshots cost no calls."""

    def __init__(self, *, runtimes: Mapping[RuntimeName, Runtime], policy: Policy) -> None:
        """Start with nothing seen: every runtime counts as down until the first look."""
        self._runtimes = runtimes
        self._policy = policy
        self.sights: dict[RuntimeName, Sight] = {}

    def statuses(self) -> tuple[RuntimeStatus, ...]:
        """The last known status of each runtime."""
        return tuple(sight.status for sight in self.sights.values())

    async def look(
        self, handles: Mapping[RuntimeName, Mapping[str, Mapping[str, object]]]
    ) -> Mapping[RuntimeName, Sight]:
        """Ask every runtime, side by side. ``handles``: what the store believes, by runtime."""
        looks = (self._one(name, handles.get(name, {})) for name in self._runtimes)
        self.sights = dict(zip(self._runtimes, await asyncio.gather(*looks), strict=True))
        return self.sights

    async def _one(self, name: RuntimeName, handles: Mapping[str, Mapping[str, object]]) -> Sight:
        enabled = self._policy.rules(name).enabled
        try:
            async with asyncio.timeout(LOOK_DEADLINE_S):
                status = await self._runtimes[name].status()
                status = status.model_copy(update={"enabled": enabled})
                if not status.healthy:
                    return Sight(status=status)
                running = await self._runtimes[name].discover(handles)
                stats = await self._runtimes[name].stats()
                return Sight(status=status, running=running, stats=stats)
        except (ModeliumError, TimeoutError) as exc:
            logger.warning("%s does not answer: %s", name.value, exc or "deadline passed")
            detail = str(exc) or f"no answer within {LOOK_DEADLINE_S:.0f} s"
            return Sight(
                status=RuntimeStatus(name=name, enabled=enabled, healthy=False, detail=detail)
            )
