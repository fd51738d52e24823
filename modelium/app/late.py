"""Parts whose libraries take seconds to import: the gateway listens first, and holds requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelium.models import Event, Fleet, Plan, Report
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Brain, Question, Stage
from modelium.stages.launcher import Runner

if TYPE_CHECKING:
    from flows.runner.service import PrefectService


class LateBrain:
    """`ports.Brain` that is built when it is first needed; calls wait for that."""

    def __init__(self, *, build: Callable[[], Brain]) -> None:
        """``build`` imports the libraries; called in a thread."""
        self._build = build
        self._brain: Brain | None = None
        self._building = asyncio.Lock()

    async def ready(self) -> Brain:
        """Return the brain; raises what ``build`` raises."""
        async with self._building:
            if self._brain is None:
                self._brain = await asyncio.to_thread(self._build)
        return self._brain

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        """See `ports.Brain.advise`."""
        return await (await self.ready()).advise(question, fleet, policy)

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        """See `ports.Brain.decide`."""
        return await (await self.ready()).decide(question, fleet, policy, advice)


class LatePrefect:
    """Prefect, and the `Runner` that records stages there; before `start` they run unrecorded.

    An async context manager: entering starts nothing, leaving stops what `start` started.
    """

    def __init__(self, *, build: Callable[[], PrefectService], unrecorded: Runner) -> None:
        """``build`` is called by `start`."""
        self._build = build
        self._unrecorded = unrecorded
        self._service: PrefectService | None = None

    @property
    def connected(self) -> bool:
        """Whether stages are being recorded."""
        return self._service is not None and self._service.connected

    async def run(self, stage: Stage, **parameters: Any) -> Report:
        """Run ``stage`` to its end; raises what the stage raises."""
        runner = self._service.runner if self._service else self._unrecorded
        return await runner.run(stage, **parameters)

    def announce(self, event: Event) -> None:
        """Send ``event`` to Prefect's automations, from any thread; lost while Prefect is down."""
        if self._service is not None:
            self._service.announce(event)

    async def imported(self) -> None:
        """Import Prefect."""
        await asyncio.to_thread(_import_prefect)

    async def start(self) -> PrefectService:
        """Start Prefect's part of this process."""
        service = self._build()
        await service.__aenter__()
        self._service = service
        return service

    async def __aenter__(self) -> LatePrefect:
        """Start nothing."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the runs of Prefect, its thread and its server."""
        if self._service is not None:
            await self._service.__aexit__(*exc)


def _import_prefect() -> None:
    import flows.runner.service
    import flows.table  # noqa: F401
