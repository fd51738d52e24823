"""Decisions for models that requests wait for, one at a time per model."""

from __future__ import annotations

import asyncio
import logging

from modelium.control.signals import Signals
from modelium.errors import ModeliumError, Quarantined, Unavailable
from modelium.lifecycle import ModelState
from modelium.models import Fleet, Trigger
from modelium.routing.wait_estimate import WaitEstimate, estimate_wait
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot

logger = logging.getLogger(__name__)

RETRY_S = 5.0
"""Pause after a decision that started no load; the control loop serves the queue meanwhile."""


class Demand:
    """Has one decision made at a time for each model that requests wait for."""

    def __init__(self, *, services: Services, signals: Signals) -> None:
        """``signals`` says which models requests wait for."""
        self._services = services
        self._signals = signals
        self._deciding: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Decide until cancelled; what was started is cancelled too."""
        try:
            while True:
                for model in await self._signals.demanded():
                    self._start(model)
        finally:
            for task in tuple(self._deciding.values()):
                task.cancel()

    def _start(self, model: str) -> None:
        if model in self._deciding:
            return
        policy, board = self._services.policy, self._services.switchboard
        # The request behind the signal counts, though it may have been refused meanwhile.
        pending = max(1, board.traffic.pending(model))
        if policy.enabled and pending <= policy.pending_requests_threshold:
            return
        task = asyncio.create_task(self._answer(model))
        self._deciding[model] = task
        task.add_done_callback(lambda _: self._deciding.pop(model, None))

    async def _answer(self, model: str) -> None:
        """Decide, then tell waiting requests how long to wait, or why nothing is loaded."""
        try:
            if not self._services.policy.enabled:
                raise Unavailable("orchestration is disabled: nothing is loaded on demand")
            await self._decide(model)
        except ModeliumError as exc:
            self._refuse(model, exc)
        except Exception as exc:
            logger.exception("%s: deciding for waiting requests failed", model)
            self._refuse(model, ModeliumError(f"{model}: the decision failed: {exc}"))

    async def _decide(self, model: str) -> None:
        services = self._services
        failed = await services.store.find(model)
        if failed is not None and failed.state is ModelState.FAILED:
            # Each of its requests would be answered alike: that needs no decision on record.
            now = Fleet(at=services.clock.time(), revision=0)
            _refuse_failing(model, estimate_wait(failed, now))
        report = await services.launcher.decide(model=model, trigger=Trigger.DEMAND)
        if report.outcome == "rejected":
            raise ModeliumError(f"{model}: {report.reason}")
        fleet = await snapshot(services)
        known = fleet.models_by_name.get(model)
        if known is None:
            return
        estimate = estimate_wait(known, fleet)
        _refuse_failing(model, estimate)
        services.switchboard.expect(model, ready_in_s=estimate.ready_in_s, reason=estimate.reason)
        if report.outcome != "load":
            await services.clock.sleep(RETRY_S)

    def _refuse(self, model: str, error: ModeliumError) -> None:
        known = error.retry_after_s if isinstance(error, Unavailable) else None
        self._services.switchboard.refuse(model, error, retry_after_s=known or RETRY_S)


def _refuse_failing(model: str, estimate: WaitEstimate) -> None:
    """Raise `Unavailable` where no load is attempted soon."""
    if estimate.backing_off:
        error = Quarantined if estimate.quarantined else Unavailable
        raise error(f"{model}: {estimate.reason}", retry_after_s=estimate.ready_in_s)
