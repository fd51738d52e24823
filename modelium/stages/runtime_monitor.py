"""The last known status, models and statistics of every runtime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelium.errors import ModeliumError
from modelium.models import Model, RuntimeName, RuntimeStatus
from modelium.policy import Policy
from modelium.ports import EngineStats, Running, Runtime

logger = logging.getLogger(__name__)

DEADLINE_S = 20.0
"""For all queries to one runtime; a runtime that takes longer counts as down."""


Handles = Mapping[RuntimeName, Mapping[str, Mapping[str, object]]]
"""The handles of the store, by runtime and name in the runtime."""


def handles(models: Iterable[Model]) -> Handles:
    """Return what each runtime needs to find what ``models`` stand on."""
    found: dict[RuntimeName, dict[str, Mapping[str, object]]] = {}
    for model in models:
        if deployment := model.deployment:
            found.setdefault(deployment.runtime, {})[deployment.name] = deployment.handle
    return found


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

    async def observe(self, held: Handles) -> Mapping[RuntimeName, Observation]:
        """Query every runtime concurrently. ``held``: what models stand on, by runtime."""
        queries = (self.look(name, held.get(name, {})) for name in self._runtimes)
        self.observations = dict(zip(self._runtimes, await asyncio.gather(*queries), strict=True))
        return self.observations

    async def look(
        self, name: RuntimeName, held: Mapping[str, Mapping[str, object]]
    ) -> Observation:
        """Query one runtime; whatever goes wrong there is its own status, and no error."""
        enabled = self._policy.rules(name).enabled
        try:
            async with asyncio.timeout(DEADLINE_S):
                status = await self._runtimes[name].status()
                status = status.model_copy(update={"enabled": enabled})
                if not status.healthy:
                    return Observation(status=status)
                running = await self._runtimes[name].discover(held)
                stats = await self._runtimes[name].stats()
                return Observation(status=status, running=running, stats=stats)
        except ModeliumError as exc:
            detail = str(exc)
        except TimeoutError as exc:
            detail = str(exc) or f"no answer within {DEADLINE_S:.0f} s"
        except Exception as exc:  # a driver's bug, or a shortage such as of file descriptors
            logger.exception("%s cannot be looked at", name.value)
            detail = f"it cannot be looked at: {type(exc).__name__}: {exc}"
        logger.warning("%s does not answer: %s", name.value, detail)
        return Observation(
            status=RuntimeStatus(name=name, enabled=enabled, healthy=False, detail=detail)
        )
