"""Executes flow runs in this process, and finds them by id.

It uses two event loops: callers are on the service's; Prefect is on the loop of another thread,
because its engine replaces the SIGTERM handler of a main thread and sometimes blocks its loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort, ObjectNotFound
from prefect.flow_engine import run_flow_async
from pydantic_core import to_jsonable_python

from flows.runner.api_slots import ApiSlot, ApiSlots, current_slot
from flows.runner.recording import state_of, tags_of
from flows.runner.registration import claim
from flows.runner.stage_call import StageCall, current
from modelium.ports import Clock, Stage
from modelium.stages.inline import inline_steps
from modelium.stages.launcher import name_of
from modelium.tasks import BackgroundTasks

logger = logging.getLogger(__name__)

SLOTS = 3
"""Runs that talk to the server at once, when they begin and end; while their stages run they do
not count. With more, SQLite's writers block each other for minutes."""

QUEUE = 200
"""Runs that may wait for a slot. Further stages are not recorded."""

SLOW_S = 10.0
"""After Prefect delayed a stage: how long further stages begin before their runs do."""


class Executor:
    """Flow runs of this process. `submit` and `mark_slow` belong to the service's loop."""

    def __init__(
        self,
        *,
        flows: Mapping[Stage, Flow[..., Any]],
        owner: str,
        clock: Clock,
        queue: str | None = None,
        tags: Collection[str] = (),
    ) -> None:
        """Record nothing yet.

        Args:
            flows: stage → flow.
            owner: this process as a `flows.runner.registration.Owner`, as text.
            clock: for pauses.
            queue: where runs that this process makes belong; ``None``: to their deployment's.
            tags: of all runs that are executed here.
        """
        self.active: dict[UUID, StageCall] = {}
        """Runs in execution. Written only on Prefect's loop."""
        self._flows = flows
        self._owner = owner
        self._clock = clock
        self._queue = queue
        self._marks = frozenset(tags)
        self._unrecorded: dict[UUID, StageCall] = {}
        self._tasks = BackgroundTasks()
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._slots = ApiSlots(SLOTS)
        self._waiting = 0
        self._slow_until = float("-inf")

    # --- the service's side ---------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether Prefect answers, so that stages are recorded."""
        return self._session is not None

    @property
    def responsive(self) -> bool:
        """Whether a stage should wait for its run to begin."""
        return self.connected and self._clock.monotonic() >= self._slow_until

    def submit(self, call: StageCall) -> bool:
        """Create a flow run for ``call`` and execute it; False where Prefect is down."""
        with self._lock:
            session = self._session
            if session is None or self._waiting >= QUEUE:
                return False
            self._waiting += 1
            session.context.copy().run(
                session.loop.call_soon_threadsafe,
                partial(self._tasks.start, self._launch(session, call)),
            )
        return True

    def call_soon(self, what: Callable[[], None]) -> bool:
        """Call ``what`` on Prefect's loop, from any thread; False where Prefect is down."""
        with self._lock:
            session = self._session
            if session is None or not self.connected:
                return False
            session.context.copy().run(session.loop.call_soon_threadsafe, what)
        return True

    def mark_slow(self) -> None:
        """Prefect delayed a stage: for `SLOW_S`, record stages without waiting for it."""
        if self.responsive:
            logger.warning(
                "Prefect is slow: for %.0f s, stages do not wait for their runs to begin", SLOW_S
            )
        self._slow_until = self._clock.monotonic() + SLOW_S

    # --- Prefect's side -------------------------------------------------------------------

    @asynccontextmanager
    async def session(
        self, client: PrefectClient, deployments: Mapping[Stage, UUID]
    ) -> AsyncIterator[None]:
        """Record stages through ``client`` while inside. Called on Prefect's loop."""
        with self._lock:
            self._session = _Session(client, deployments)
        try:
            yield
        finally:
            with self._lock:
                self._session = None

    def spawn(self, client: PrefectClient, run: FlowRun, call: StageCall) -> asyncio.Task[None]:
        """Execute ``run``, which this process has claimed, in the background."""
        return self._tasks.start(self._in_slot(client, run, call))

    def cancel(self, run_id: UUID) -> bool:
        """Cancel an active run for its operator; False where this process does not execute it."""
        call = self.active.get(run_id)
        if call:
            call.cancel("cancelled in Prefect")
        return call is not None

    async def record_ends(self, client: PrefectClient) -> None:
        """Set the final state of runs whose end did not reach Prefect."""
        for run_id, call in list(self._unrecorded.items()):
            if call.outcome.done():
                try:
                    await client.set_flow_run_state(run_id, state_of(call), force=True)
                except ObjectNotFound:
                    logger.info("Prefect does not know run %s any more", run_id)
                self._unrecorded.pop(run_id, None)

    @property
    def held(self) -> set[UUID]:
        """Runs that this process still holds: active, or with an end that is not recorded yet."""
        return {*self.active, *self._unrecorded}

    async def drain(self, *, reason: str, timeout_s: float) -> None:
        """Cancel what is active and wait until it is recorded, ``timeout_s`` at most."""
        for call in self.active.values():
            call.cancel(reason)
        await self._tasks.wait(timeout_s=timeout_s)

    async def _launch(self, session: _Session, call: StageCall) -> None:
        try:
            async with AsyncExitStack() as stack:
                try:
                    own = await stack.enter_async_context(ApiSlot(self._slots))
                finally:
                    with self._lock:
                        self._waiting -= 1
                run = await session.client.create_flow_run_from_deployment(
                    session.deployments[call.stage],
                    name=name_of(call.stage, call.parameters),
                    parameters=to_jsonable_python(call.parameters, fallback=str),
                    # Pending, not Scheduled, so that no worker claims it.
                    state=claim(self._owner),
                    tags=sorted(tags_of(call.parameters) | self._marks),
                    work_queue_name=self._queue,
                )
                await self._execute(session.client, run, call, own)
        except Exception as exc:
            logger.warning("stage %s is not recorded: %s", call.stage, exc)
            call.begin(inline_steps)

    async def _in_slot(self, client: PrefectClient, run: FlowRun, call: StageCall) -> None:
        async with ApiSlot(self._slots) as own:
            await self._execute(client, run, call, own)

    async def _execute(
        self, client: PrefectClient, run: FlowRun, call: StageCall, own: ApiSlot
    ) -> None:
        self.active[run.id] = call
        call.tags = self._marks
        current.set(call)
        current_slot.set(own)
        owned = asyncio.create_task(self._own(client, run, call))
        try:
            state = await run_flow_async(
                self._flows[call.stage],
                # Without a deployment the engine does not start an observer of suspensions, which
                # blocks this loop while the server is down. The engine reads the run again before
                # the flow's body, so nothing is lost.
                flow_run=run.model_copy(update={"deployment_id": None}),
                parameters=call.parameters,
                return_type="state",
            )
            if state is not None and state.is_cancelling():
                self._cancelled_early(run, call)
            elif not call.begun:
                why = state.message if state is not None else ""
                call.cancel(f"its flow run ended before it could start: {why}")
        except Abort:
            if await self._is_cancelled(client, run):
                self._cancelled_early(run, call)
            else:
                call.begin(inline_steps)
        except Exception as exc:
            logger.warning(
                "run %s of stage %s can no longer be recorded: %s", run.id, call.stage, exc
            )
            self._unrecorded[run.id] = call
            call.begin(inline_steps)
        finally:
            del self.active[run.id]
            await asyncio.gather(owned, return_exceptions=True)

    def _cancelled_early(self, run: FlowRun, call: StageCall) -> None:
        """Record the end of ``run``, which an operator cancelled before its flow began."""
        call.cancel("cancelled in Prefect")
        self._unrecorded[run.id] = call

    async def _is_cancelled(self, client: PrefectClient, run: FlowRun) -> bool:
        try:
            state = (await client.read_flow_run(run.id)).state
        except Exception as exc:
            logger.warning("run %s cannot be read: %s", run.id, exc)
            return False
        return state is not None and (state.is_cancelled() or state.is_cancelling())

    async def _own(self, client: PrefectClient, run: FlowRun, call: StageCall) -> None:
        """Set name, tags and owner of the run; after a kill the next process checks the owner."""
        try:
            await client.update_flow_run(
                run.id,
                name=name_of(call.stage, call.parameters),
                infrastructure_pid=self._owner,
                tags=sorted({*run.tags, *tags_of(call.parameters), *self._marks}),
            )
        except Exception as exc:
            logger.warning("run %s could not be marked as owned by this process: %s", run.id, exc)


class _Session:
    """A connection to Prefect, with its event loop and context."""

    def __init__(self, client: PrefectClient, deployments: Mapping[Stage, UUID]) -> None:
        self.client = client
        self.deployments = deployments
        self.loop = asyncio.get_running_loop()
        self.context = contextvars.copy_context()
