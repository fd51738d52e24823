"""The control loop: reconcile, then start what the planner finds due."""

from __future__ import annotations

import asyncio
import logging

from modelium.control.abandoned import Abandoned
from modelium.control.request_lines import store_lines
from modelium.control.signals import Signals
from modelium.control.strays import clear_strays
from modelium.control.team_accounts import TeamAccounts
from modelium.errors import ModeliumError
from modelium.models import Fleet, Trigger
from modelium.stages.monitor import reconcile
from modelium.stages.newcomers import resume
from modelium.stages.planning import sweep
from modelium.stages.removal import remove_pending
from modelium.stages.services import Services
from modelium.stages.settling import converge
from modelium.stages.silence import relieve
from modelium.stages.switching import conclude
from modelium.stages.tidying import tidy

logger = logging.getLogger(__name__)

PERSIST_S = 60.0
"""Between two writes of traffic and request log: a crash loses at most this much."""

SETTLE_S = 20.0
"""Between two looks at what nobody is at any more: it is settled at the second one."""

PRUNE_S = 3600.0
"""Between two prunings of the logs."""

GAP_S = 60.0
"""Between two notings of requests, at most, or three intervals: longer is a time not watched."""

MIN_PAUSE_S = 1.0
"""Between two ticks, at least: a dead engine fails many requests, and one tick is enough."""


class Loop:
    """Runs until it is cancelled; a failed tick does not end it."""

    def __init__(self, *, services: Services, signals: Signals) -> None:
        """``signals`` says when to tick at once."""
        self._services = services
        self._signals = signals
        self._abandoned = Abandoned(services=services)
        self._accounts = TeamAccounts(services=services)
        now = services.clock.monotonic()
        self._reviewed_at = self._settled_at = self._persisted_at = self._pruned_at = now
        self._watched_until: float | None = None
        """Up to when (epoch) requests were noted for the departures; ``None``: they were not."""

    async def run(self) -> None:
        """Tick for ever."""
        interval = self._services.config.orchestration.metrics.collection_interval_seconds
        while True:
            began = self._services.clock.monotonic()
            failed = True
            try:
                await self.tick()
                await self._housekeep(began)
                failed = False
            except ModeliumError as exc:
                logger.warning(
                    "the control loop failed once, next attempt in %g s: %s", interval, exc
                )
            except Exception:
                logger.exception("the control loop failed once, next attempt in %g s", interval)
            seconds = self._services.clock.monotonic() - began
            self._services.telemetry.on_tick(seconds=seconds, failed=failed)
            await self._pause(interval)

    async def _pause(self, interval_s: float) -> None:
        """Wait for the interval; less when a signal asks for a tick, or a late runtime answers."""
        clock, gap = self._services.clock, min(MIN_PAUSE_S, interval_s)
        await clock.sleep(gap)
        waits = [
            asyncio.ensure_future(clock.sleep(interval_s - gap)),
            asyncio.ensure_future(self._signals.tick_wanted.wait()),
        ]
        try:
            late = self._services.runtime_monitor.late()
            await asyncio.wait([*waits, *late], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._signals.tick_wanted.clear()

    async def persist(self) -> None:
        """Store traffic and request log; call it once more at shutdown."""
        services = self._services
        history = services.store.history
        self._count_lost_lines()
        traffic = await asyncio.to_thread(services.switchboard.traffic.snapshot)
        await history.record_traffic(traffic)
        await store_lines(services)

    def _count_lost_lines(self) -> None:
        requests = self._services.requests
        lost, requests.dropped = requests.dropped, 0
        if lost:
            logger.warning("%d lines of the request log were lost: its buffer was full", lost)
            self._services.telemetry.on_request_lines_lost(lost)

    async def _housekeep(self, now: float) -> None:
        if now - self._settled_at >= SETTLE_S:
            self._settled_at = now
            await self._abandoned.settle()
        if now - self._persisted_at >= PERSIST_S:
            self._persisted_at = now
            await self.persist()
        if now - self._pruned_at >= PRUNE_S:
            self._pruned_at = now
            if self._services.store.plans:
                await self._prune()
            await tidy(self._services)

    async def _prune(self) -> None:
        store, terms = self._services.store, self._services.config.orchestration.metrics
        await store.prune()
        await store.questions.prune()
        await store.history.prune(
            rollup_days=terms.history_retention_days,
            request_days=terms.request_log_retention_days,
        )

    async def tick(self) -> None:
        """Reconcile once; start a recorded decision where the planner finds something due."""
        services = self._services
        _revision, models, _bookings = await services.store.view()
        await converge(services, models)
        resume(services, models)
        fleet, _changed = await reconcile(services)
        if services.node:
            await clear_strays(services)
        if services.store.plans:
            await self._keep_books(fleet)
        await remove_pending(services)
        if not services.policy.enabled:
            return
        await conclude(services, fleet)
        # Read again: a model may have been registered meanwhile.
        services.switchboard.know(await services.store.versions())
        if services.store.plans:
            await relieve(services, fleet, fleet.models)
            await sweep(services, fleet, services.sweeps.trigger(services.clock.monotonic()))
            self._review()

    async def _keep_books(self, fleet: Fleet) -> None:
        """Count and store what one node does for all."""
        await self._accounts.count(fleet)
        await self._note_requests(fleet)
        await self._remember_pause()

    async def _note_requests(self, fleet: Fleet) -> None:
        """Note what was asked for, by which departures of an LLM are judged."""
        if not self._services.policy.departures:
            self._watched_until = None
            return
        since, interval = self._watched_until, self._services.config.orchestration.metrics
        longest = max(GAP_S, 3 * interval.collection_interval_seconds)
        if since is None or fleet.at - since > longest:
            since = fleet.at  # a model's last request hides those before it
        if any(since <= one.seen_until < one.until for one in fleet.departures):
            last = {m.name: m.traffic.last_request_at for m in fleet.models}
            asked = {name: at for name, at in last.items() if at is not None}
            await self._services.store.departures.note_requests(asked, since=since, at=fleet.at)
        self._watched_until = fleet.at

    async def _remember_pause(self) -> None:
        """Store when idle models stopped being unloaded, or that they are again."""
        store, since = self._services.store, self._services.sweeps.paused_since
        if since == await store.rules.idle_pause():
            return
        await store.rules.set_idle_pause(since)
        if since is None:
            await store.events.append("idle.resumed")
        else:
            await store.events.append("idle.paused", since=since)

    def _review(self) -> None:
        """Start an LLM's review of the fleet when it is due; nothing waits for it."""
        services, wanted = self._services, self._services.config.brain
        now = services.clock.monotonic()
        due = now - self._reviewed_at >= wanted.review_interval_seconds
        if wanted.base_url is not None and wanted.model is not None and due:
            self._reviewed_at = now
            services.launcher.start(services.launcher.decide(trigger=Trigger.REVIEW))
