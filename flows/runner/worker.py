"""The Prefect worker of this process: claims scheduled runs and executes them here.

A client of Prefect's API rather than a `prefect.workers` worker: those submit runs to other
processes, with five more requests each, and end at the first failed request.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

from flows.runner import idle_schedule
from flows.runner.executor import Executor
from flows.runner.peers import Peers, is_on_schedule
from flows.runner.queues import OWN_SLOTS, SLOTS, queue_of
from flows.runner.registration import claim, drop_backlog, is_missed
from flows.runner.retries import parameters_of
from flows.runner.stage_call import StageCall
from modelium.errors import Unavailable
from modelium.ports import Clock, Stage
from modelium.stages.sweeps import Schedule

logger = logging.getLogger(__name__)

POLL_S = 5.0
"""Between two polls when no event arrives: the fallback, and the precision of schedules."""

HEARTBEAT_S = 30.0
"""Prefect shows a worker as offline after three missed heartbeats."""

PROBE_S = 5.0
"""Between two health checks."""

PROBE_FAILURES = 4
"""Consecutive failures after which the server counts as down; fewer may be a pause under load."""

RECONNECT_S = 5.0
"""Before subscribing to events again; polling continues meanwhile."""

SCHEDULED = "prefect.flow-run.Scheduled"
CANCELLING = "prefect.flow-run.Cancelling"


class Worker:
    """Executes the runs of one work pool. Belongs to Prefect's event loop."""

    def __init__(
        self,
        *,
        client: PrefectClient,
        executor: Executor,
        call: Callable[[Stage, Mapping[str, Any]], StageCall],
        deployments: Mapping[Stage, UUID],
        pool: str,
        name: str,
        owner: str,
        claimed: dict[UUID, str],
        healthy: Callable[[], Awaitable[bool]],
        tend: Callable[[], Awaitable[None]],
        peers: Peers | None,
        follow: Callable[[Schedule], None],
        clock: Clock,
    ) -> None:
        """Prepare.

        Args:
            client: entered, of Prefect's loop.
            executor: runs what is claimed.
            call: makes the stage call of a run, on the service's loop.
            deployments: as registered; runs of others are left alone.
            pool: the work pool's name.
            name: what the worker is called in the UI.
            owner: this process as a `flows.runner.registration.Owner`, as text.
            claimed: the queue of each run that holds a slot. It outlives this worker, as the runs
                do when the server goes away and comes back.
            healthy: whether the server answers; must not take long.
            tend: called every `HEARTBEAT_S`: ends what other nodes have left, where this one plans.
            peers: the nodes that serve the pool, too; ``None``: this machine is alone.
            follow: called with the schedule of idle sweeps, again and again.
            clock: for the pauses.
        """
        self._client = client
        self._executor = executor
        self._call = call
        self._stages = {deployment: stage for stage, deployment in deployments.items()}
        self._pool = pool
        self._name = name
        self._owner = owner
        self._healthy = healthy
        self._tend = tend
        self._peers = peers
        self._slots = dict(SLOTS) if peers is None else {**SLOTS, queue_of(peers.node): OWN_SLOTS}
        self._follow = follow
        self._idle_sweeps = deployments["evict"]
        self._clock = clock
        self._claimed = claimed
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Work until the server is down; then raises `Unavailable` in an exception group."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat("pick up runs", self._pick_up, self._woken))
            group.create_task(self._repeat("listen to events", self._listen, self._pause))
            group.create_task(self._repeat("send a heartbeat", self._send_heartbeat, self._rest))
            group.create_task(self._repeat("read the schedule", self._read_schedule, self._pause))
            group.create_task(self._repeat("tend to other nodes' runs", self._tend, self._rest))
            group.create_task(self._probe())

    async def _repeat(
        self,
        what: str,
        work: Callable[[], Awaitable[None]],
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        """Repeat ``work``; one failed request does not end the worker."""
        while True:
            try:
                await work()
            except Exception as exc:
                logger.warning("the Prefect worker could not %s: %s", what, exc)
            await pause()

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _pause(self) -> None:
        await self._clock.sleep(RECONNECT_S)

    async def _rest(self) -> None:
        await self._clock.sleep(HEARTBEAT_S)

    # --- claiming -------------------------------------------------------------------------

    async def _pick_up(self) -> None:
        await self._cancel_missed()
        held = Counter(self._claimed.values())
        free = {queue: slots - held[queue] for queue, slots in self._slots.items()}
        open_queues = [queue for queue, slots in free.items() if slots > 0]
        if not open_queues:
            return
        due = await self._client.get_scheduled_flow_runs_for_work_pool(
            self._pool, work_queue_names=open_queues, scheduled_before=datetime.now(UTC)
        )
        runs = [entry.flow_run for entry in due]
        mine = [run for run in runs if self._peers is None or self._peers.takes(run)]
        if any(is_on_schedule(run) and is_missed(run) for run in runs if run not in mine):
            # Nobody plans, or whoever does has no connection to Prefect.
            await drop_backlog(self._client, deployments=self._stages)
        for run in mine:
            queue = run.work_queue_name or "default"
            stage = self._stages.get(run.deployment_id) if run.deployment_id else None
            if stage and run.id not in self._claimed and free.get(queue, 0) > 0:
                free[queue] -= 1
                self._claimed[run.id] = queue
                task = asyncio.create_task(self._take(run, stage))
                self._tasks.add(task)
                task.add_done_callback(partial(self._release, run.id))

    async def _take(self, run: FlowRun, stage: Stage) -> None:
        """Claim ``run`` and execute it, unless another worker has claimed it."""
        claimed: OrchestrationResult[Any] = await self._client.set_flow_run_state(
            run.id, claim(self._owner)
        )
        if claimed.status == SetStateStatus.ACCEPT:
            await asyncio.shield(
                self._executor.spawn(self._client, run, self._call(stage, parameters_of(run)))
            )

    def _release(self, run_id: UUID, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            logger.warning("run %s could not be claimed: %s", run_id, error)
        self._tasks.discard(task)
        del self._claimed[run_id]
        self._wake.set()

    async def _cancel_missed(self) -> None:
        """Cancel runs that an operator cancelled while no event arrived."""
        if not self._executor.active:
            return
        cancelling = FlowRunFilter(
            id=FlowRunFilterId(any_=list(self._executor.active)),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING])),
        )
        for run in await self._client.read_flow_runs(flow_run_filter=cancelling):
            self._executor.cancel(run.id)

    # --- keeping in touch -----------------------------------------------------------------

    async def _listen(self) -> None:
        pool = await self._client.read_work_pool(self._pool)
        events = EventFilter(
            event=EventNameFilter(name=[SCHEDULED, CANCELLING]),
            any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool.id}"]),
        )
        async with get_events_subscriber(filter=events, reconnect_on_clean_close=True) as stream:
            async for event in stream:
                if event.event == SCHEDULED:
                    self._wake.set()
                else:
                    self._executor.cancel(UUID(event.resource.id.rpartition(".")[2]))

    async def _send_heartbeat(self) -> None:
        await self._client.send_worker_heartbeat(self._pool, self._name, HEARTBEAT_S)
        await self._executor.record_ends(self._client)

    async def _read_schedule(self) -> None:
        self._follow(await idle_schedule.read(self._client, self._idle_sweeps))

    async def _probe(self) -> None:
        failures = 0
        while failures < PROBE_FAILURES:
            await self._clock.sleep(PROBE_S)
            failures = 0 if await self._healthy() else failures + 1
        raise Unavailable("the Prefect server does not answer")
