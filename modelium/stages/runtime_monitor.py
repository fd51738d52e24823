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

LATE_S = 2.0
"""For a runtime that was silent or unhealthy before, or was never heard of: the loop does not
wait for it at every tick, nor does the start of the service."""

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
        self._asking: dict[RuntimeName, asyncio.Task[Observation]] = {}
        self._off: tuple[RuntimeStatus, ...] = ()

    def statuses(self) -> tuple[RuntimeStatus, ...]:
        """Return the last known status of each runtime, and of those that models still stand on."""
        return tuple(observation.status for observation in self.observations.values()) + self._off

    async def observe(self, held: Handles) -> Mapping[RuntimeName, Observation]:
        """Query every runtime concurrently; one that was silent before is hardly waited for.

        Its query goes on, and once that has an answer it is waited for as the others are.

        Args:
            held: what models stand on, by runtime.
        """
        self._off = tuple(_off(name, held[name]) for name in held if name not in self._runtimes)
        asked = {name: self._ask(name, held.get(name, {})) for name in self._runtimes}
        waits = {n: DEADLINE_S if self._is_well(n) else min(LATE_S, DEADLINE_S) for n in asked}
        await asyncio.gather(
            *(asyncio.wait({task}, timeout=waits[name]) for name, task in asked.items())
        )
        self.observations = {
            name: task.result() if task.done() else self._silent(name, waits[name])
            for name, task in asked.items()
        }
        return self.observations

    def late(self) -> tuple[asyncio.Task[Observation], ...]:
        """Return the queries that are still in progress: `observe` did not wait for their end."""
        return tuple(task for task in self._asking.values() if not task.done())

    def _ask(
        self, name: RuntimeName, held: Mapping[str, Mapping[str, object]]
    ) -> asyncio.Task[Observation]:
        """Return the query of ``name`` that is in progress, else a new one."""
        last = self._asking.get(name)
        if last is not None and not last.done():
            return last
        if last is not None and not last.cancelled():  # it may have ended after it was waited for
            self.observations[name] = last.result()
        self._asking[name] = asyncio.create_task(self.look(name, held), name=f"look {name.value}")
        return self._asking[name]

    def _is_well(self, name: RuntimeName) -> bool:
        last = self.observations.get(name)
        return last is not None and last.status.healthy

    def _silent(self, name: RuntimeName, waited_s: float) -> Observation:
        detail = f"no answer within {waited_s:g} s; it is still being asked"
        return Observation(status=self._down(name, detail))

    def _down(self, name: RuntimeName, detail: str) -> RuntimeStatus:
        enabled = self._policy.rules(name).enabled
        return RuntimeStatus(name=name, enabled=enabled, healthy=False, detail=detail)

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
        return Observation(status=self._down(name, detail))


def _off(name: RuntimeName, held: Mapping[str, object]) -> RuntimeStatus:
    """Return the status of a runtime without a driver that ``held`` were loaded in."""
    models = ", ".join(sorted(held))
    detail = (
        f"switched off in the configuration, while {models} may still be loaded in it; switch it "
        "on, or end what runs there"
    )
    return RuntimeStatus(name=name, enabled=False, healthy=False, detail=detail)
