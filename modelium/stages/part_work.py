"""A model over several nodes, seen from one that has a part of it and does not answer for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from typing import Any, Literal

from modelium.errors import FailureKind, LoadFailed, ModeliumError, Unavailable
from modelium.models import Model, Report
from modelium.models.parts import Part
from modelium.policy.cleanup_check import Cleanup
from modelium.ports import Running, Span
from modelium.stages.fetching import provide
from modelium.stages.load_request import load_request
from modelium.stages.loading import within_bound
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot
from modelium.stages.unloading import UNLOAD_S, call_unload_of
from modelium.stages.verification import verify

logger = logging.getLogger(__name__)

Step = Literal["load", "end", "lost", "none"]


def due(part: Part, model: Model | None, *, seen: bool, running: Running | None) -> Step:
    """Return what the node of ``part`` has to do about it now (pure).

    Args:
        part: its row.
        model: as the store has it; ``None``: it has none of that name.
        seen: whether it is known what the runtime runs.
        running: the part in the runtime; ``None``: it does not run it.
    """
    current = model.deployment if model else None
    if part.state == "ending" or current is None:
        return "end"
    if current.started_at != part.deployment.started_at:
        return "end"
    if part.state in ("wanted", "prepared"):
        return "load"
    gone = running is None or running.state == "unhealthy"
    return "lost" if part.state == "running" and seen and gone else "none"


class PartWork:
    """Does on this node what the rows of its parts say."""

    def __init__(self, *, services: Services) -> None:
        """Nothing is begun yet."""
        self._services = services
        self._loading: set[str] = set()
        self._ending: set[str] = set()

    async def act(self) -> None:
        """Begin what is due now and nobody is at."""
        services = self._services
        for part in await services.store.parts.on(services.node):
            model = await services.store.find(part.model)
            observation = services.runtime_monitor.observations.get(part.deployment.runtime)
            found = (observation.running if observation else None) or ()
            name = part.deployment.name
            step = due(
                part,
                model,
                seen=observation is not None and observation.running is not None,
                running=next((one for one in found if one.model == name), None),
            )
            if step == "end" and part.id not in self._ending:
                services.launcher.start(_Run(self, "end", part))
            elif step == "load" and part.id not in self._loading | self._ending:
                services.launcher.start(_Run(self, "load", part))
            elif step == "lost":
                await self._lost(part)

    async def load(self, part: Part) -> None:
        """Load ``part``, and say how that ended."""
        services = self._services
        self._loading.add(part.id)
        try:
            handle = await self._load(part)
            fresh = {"state": "running", "handle": handle}
        except (ModeliumError, asyncio.CancelledError) as exc:
            kind = exc.kind if isinstance(exc, LoadFailed) else FailureKind.UNKNOWN
            why = str(exc) or "it was cancelled"
            fresh = {"state": "failed", "kind": kind, "detail": why}
            logger.warning("the part of %s could not be loaded: %s", part.model, why)
            if isinstance(exc, asyncio.CancelledError):
                await asyncio.shield(services.store.parts.report(part.model_copy(update=fresh)))
                raise
        finally:
            self._loading.discard(part.id)
        await services.store.parts.report(part.model_copy(update=fresh))

    async def _load(self, part: Part) -> dict[str, Any]:
        services, deployment = self._services, part.deployment
        fleet = await snapshot(services)
        record = fleet.models_by_name[part.model]
        runtime = services.runtimes.get(deployment.runtime)
        if runtime is None:
            raise Unavailable(f"{deployment.runtime.value} is switched off in the configuration")

        def progress(phase: str, share: float | None) -> None:
            logger.info("part of %s: %s%s", part.model, phase, f" {share:.0%}" if share else "")

        path = await provide(services, record, progress)
        await verify(services, record)
        services.heartbeat.check(services.clock.monotonic())
        span = Span(rank=part.rank, addresses=part.addresses, port=part.port)
        request = load_request(services, fleet, record, deployment, path, span=span)
        # The last look at the store before the engine is started, which `end` then finds.
        if not await services.store.parts.report(part.model_copy(update={"state": "prepared"})):
            raise Unavailable(f"the part of {part.model} is not wanted any more")
        with services.activity.on(device.id for device in request.devices):
            return (await within_bound(runtime, request, progress)).handle

    async def end(self, part: Part) -> None:
        """End what this node runs of ``part``; what fails is tried again.

        Raises:
            ModeliumError: the runtime does not end it.
        """
        services, deployment = self._services, part.deployment
        self._ending.add(part.id)
        try:
            cleanup = Cleanup(runtime=deployment.runtime, instance=deployment.name, cause="begun")
            with services.activity.on(deployment.devices):
                # The node that answers has drained the model, or it is lost.
                await call_unload_of(services, cleanup, part.handle, grace_s=0.0, limit_s=UNLOAD_S)
            await services.store.parts.ended(part)
        finally:
            self._ending.discard(part.id)

    async def _lost(self, part: Part) -> None:
        why = "its process ended, or lost the one that answers"
        failed = {"state": "failed", "kind": FailureKind.KILLED, "detail": why}
        await self._services.store.parts.report(part.model_copy(update=failed))


class _Run:
    """One attempt at one part."""

    def __init__(self, work: PartWork, step: Literal["load", "end"], part: Part) -> None:
        self._work, self._step, self._part = work, step, part

    def __await__(self) -> Generator[Any, None, Report]:
        return self._run().__await__()

    def __str__(self) -> str:
        return f"{self._step} the part of {self._part.model}"

    async def _run(self) -> Report:
        work, part = self._work, self._part
        await (work.load(part) if self._step == "load" else work.end(part))
        stage: Literal["load", "evict"] = "load" if self._step == "load" else "evict"
        return Report(stage=stage, outcome="part", model=part.model, reason=str(self))
