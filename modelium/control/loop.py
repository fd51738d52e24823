"""The quick control loop: look, and set off what is due."""

from __future__ import annotations

import asyncio
import logging

from modelium.control.signals import Signals
from modelium.errors import ModeliumError
from modelium.models import Report, Trigger
from modelium.ports import Question
from modelium.stages.monitor import look
from modelium.stages.planning import effective
from modelium.stages.services import Services
from modelium.stages.sweeps import Sweep

logger = logging.getLogger(__name__)

KEEP_S = 60.0
"""Between two writes of traffic and request log: what a crash may cost, against 5 ms each."""

PRUNE_S = 3600.0
"""Between two prunings of the logs."""

LOOK_GAP_S = 1.0
"""Least pause between two looks: a dead engine fails many requests, one look is enough."""


class Loop:
    """Runs until it is cancelled; one bad tick never ends it."""

    def __init__(self, *, services: Services, signals: Signals) -> None:
        """``signals`` says when to look at once."""
        self._services = services
        self._signals = signals
        now = services.clock.monotonic()
        self._reviewed_at = self._kept_at = self._pruned_at = now

    async def run(self) -> None:
        """Tick for ever."""
        interval = self._services.config.orchestration.metrics.collection_interval_seconds
        while True:
            began = self._services.clock.monotonic()
            failed = True
            try:
                await self.tick()
                await self._record(began)
                failed = False
            except ModeliumError as exc:
                logger.warning("this look failed, the next one is in %g s: %s", interval, exc)
            except Exception:
                logger.exception("this look failed, the next one is in %g s", interval)
            seconds = self._services.clock.monotonic() - began
            self._services.telemetry.on_look(seconds=seconds, failed=failed)
            await self._pause(interval)

    async def _pause(self, interval_s: float) -> None:
        """Wait for the next look: the interval, or less where one is wanted."""
        clock, gap = self._services.clock, min(LOOK_GAP_S, interval_s)
        await clock.sleep(gap)
        over = [
            asyncio.ensure_future(clock.sleep(interval_s - gap)),
            asyncio.ensure_future(self._signals.look_wanted.wait()),
        ]
        try:
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in over:
                wait.cancel()
        self._signals.look_wanted.clear()

    async def keep(self) -> None:
        """Write what was counted since the last time; call it once more at the end."""
        services = self._services
        history, lines = services.store.history, services.requests.take()
        if services.requests.dropped:
            logger.warning("the request log lost %d lines", services.requests.dropped)
            services.requests.dropped = 0
        traffic = await asyncio.to_thread(services.switchboard.traffic.snapshot)
        await history.record_traffic(traffic)
        await history.log(lines)

    async def _record(self, now: float) -> None:
        if now - self._kept_at >= KEEP_S:
            self._kept_at = now
            await self.keep()
        if now - self._pruned_at >= PRUNE_S:
            self._pruned_at = now
            await self._prune()

    async def _prune(self) -> None:
        store, terms = self._services.store, self._services.config.orchestration.metrics
        await store.prune()
        await store.history.prune(
            rollup_days=terms.history_retention_days,
            request_days=terms.request_log_retention_days,
        )

    async def tick(self) -> None:
        """Look once; start a recorded decision where the planner finds something due."""
        services = self._services
        fleet, _changed = await look(services)
        if not services.policy.enabled:
            return
        # Read anew: a model that was taken in during the look is known by now.
        services.switchboard.know(await services.store.versions())
        question = Question(trigger=Trigger.SWEEP, now=services.clock.time())
        plan = await services.brain.decide(question, fleet, services.policy)
        report = Report(stage="decide", outcome="nothing", reason=plan.reason)
        if effective(plan, fleet):
            plan = plan.model_copy(update={"revision": fleet.revision})
            report = await services.launcher.decide(trigger=Trigger.SWEEP, plan=plan)
        services.sweeps.note(Sweep(at=services.clock.monotonic(), report=report))
        self._review()

    def _review(self) -> None:
        """Have an LLM, where there is one, look at the fleet now and then; nothing waits for it."""
        services, wanted = self._services, self._services.config.brain
        now = services.clock.monotonic()
        due = now - self._reviewed_at >= wanted.review_interval_seconds
        if wanted.base_url is not None and wanted.model is not None and due:
            self._reviewed_at = now
            services.launcher.start(services.launcher.decide(trigger=Trigger.REVIEW))
