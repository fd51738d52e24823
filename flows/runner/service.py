"""Prefect in this process: server, registration, worker and runner, and their life cycle.

The service never waits for Prefect: while it does not answer, stages run directly.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import temporary_settings

from flows.runner.client import connection, trust
from flows.runner.events import emit
from flows.runner.executor import Executor
from flows.runner.peers import Peers, present
from flows.runner.queues import queue_of, remove_others
from flows.runner.recorded_runner import RecordedRunner
from flows.runner.registration import Owner, drop_backlog, recover, recover_absent, register
from flows.runner.server import EmbeddedServer
from flows.runner.stage_call import StageCall
from flows.runner.worker import Worker
from modelium.config import Config
from modelium.models import Event
from modelium.ports import Clock, Stage
from modelium.stages.inline import Stages
from modelium.stages.services import Services
from modelium.stages.sweeps import Schedule

logger = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 3.0
"""For one health check; a healthy server answers in milliseconds."""

RETRY_S = (1.0, 30.0)
"""First and longest pause between two connection attempts; doubles in between."""

DRAIN_S = 30.0
"""At shutdown: for stages started by Prefect to clean up and to be recorded."""

FLUSH_S = 3.0
"""At shutdown: for buffered task runs and log lines to reach the server."""

JOIN_S = 10.0
"""For Prefect's thread to end; it is a daemon, so a hung request cannot block the exit."""


class PrefectService:
    """Prefect beside the service. An async context manager.

    Enter it after `modelium.stages.services.provide`: runs that Prefect starts use the context of
    that moment. Entering does not wait; `runner` may be used before, inside and after.
    """

    def __init__(
        self,
        *,
        config: Config,
        flows: Mapping[Stage, Flow[..., Any]],
        stages: Stages,
        services: Callable[[], Services],
        clock: Clock,
        environ: Mapping[str, str],
        follow: Callable[[Schedule | None], None] = lambda _: None,
        peers: Peers | None = None,
    ) -> None:
        """Choose the server.

        Args:
            config: with Prefect enabled.
            flows: `flows.table.FLOWS`.
            stages: `modelium.stages.table.STAGES`.
            services: `modelium.stages.services.current`.
            clock: for pauses.
            environ: with ``PREFECT_API_URL`` and credentials.
            follow: called on the service's loop with the schedule of idle sweeps, ``None`` when
                the server stops answering.
            peers: the nodes of the store; ``None``: this machine is alone.
        """
        self._owner = Owner.of_this_process(config.orchestration.node)
        self._folder = config.orchestration.state / "prefect"
        self._pool = config.prefect.work_pool
        self._stages = stages
        self._services = services
        self._clock = clock
        self._follow = follow
        self._peers = peers
        self._auth = environ.get("PREFECT_API_AUTH_STRING")
        self._server: EmbeddedServer | None = None
        url = config.prefect.api_url or environ.get("PREFECT_API_URL")
        if url is None:
            self._server = EmbeddedServer(
                config=config.prefect,
                folder=self._folder,
                clock=clock,
                environ=environ,
                credentials=config.prefect_credentials(),
            )
            url = self._server.api_url
            self._auth = self._server.auth
        else:
            # Nobody should send them to another server.
            config.prefect_credentials().unlink(missing_ok=True)
        self.api_url = url.rstrip("/")
        self._flows = {
            # Prefect asks its server for a result storage in every run that names none. Nothing is
            # written there: no flow persists its result.
            stage: flow.with_options(result_storage=self._folder / "results", persist_result=False)
            for stage, flow in flows.items()
        }
        self._executor = Executor(
            flows=self._flows,
            owner=str(self._owner),
            clock=clock,
            queue=queue_of(peers.node) if peers else None,
            tags=[f"node:{peers.node}"] if peers else (),
        )
        self.runner = RecordedRunner(executor=self._executor, stages=stages, services=services)
        self._claimed: dict[UUID, str] = {}
        self._ready = asyncio.Event()
        self._stack = AsyncExitStack()

    @property
    def ui_url(self) -> str:
        """The address of Prefect's UI."""
        return self.api_url.removesuffix("/api")

    @property
    def connected(self) -> bool:
        """Whether stages are being recorded."""
        return self._executor.connected

    def announce(self, event: Event) -> None:
        """Send ``event`` to Prefect's automations, from any thread; returns at once.

        It is lost while Prefect is down; the store has it.
        """
        self._executor.call_soon(partial(emit, event, node=self._owner.node))

    async def ready(self) -> None:
        """Wait until stages are recorded."""
        await self._ready.wait()

    async def __aenter__(self) -> PrefectService:
        """Start server and thread without waiting for them."""
        async with AsyncExitStack() as stack:
            if self._server:
                await stack.enter_async_context(self._server)
            thread = _Thread(self._live)
            stack.push_async_callback(thread.stop)
            stack.push_async_callback(self._drain, thread)
            self._loop = asyncio.get_running_loop()
            self._context = contextvars.copy_context()
            thread.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the runs of Prefect, its thread and its server."""
        await self._stack.aclose()

    async def _drain(self, thread: _Thread) -> None:
        await thread.call(self._executor.drain(reason="Modelium is stopping", timeout_s=DRAIN_S))

    # --- on Prefect's loop ----------------------------------------------------------------

    async def _live(self) -> None:
        settings: dict[str, Any] = {
            "api.url": self.api_url,
            "api.auth_string": self._auth,
            "home": self._folder,
            # Never start a second server from a thread without these settings.
            "server.ephemeral.enabled": False,
            "client.server_version_check_enabled": False,
            "logging.to_api.when_missing_flow": "ignore",
            # Heartbeats cost a thread and events per run; the owner of a run is checked instead.
            "flows.heartbeat_frequency": None,
            **trust(self.api_url, self._folder),
        }
        with temporary_settings(settings):
            async with (
                httpx.AsyncClient(timeout=HEALTH_TIMEOUT_S) as http,
                connection(self.api_url) as shared,
            ):
                try:
                    await self._sessions(shared.client, http)
                finally:
                    await self._flush(http)

    async def _sessions(self, client: PrefectClient, http: httpx.AsyncClient) -> None:
        pause, longest = RETRY_S
        while True:
            logger.info("waiting for the Prefect server at %s", self.api_url)
            while not await self._healthy(http):
                await self._clock.sleep(RETRY_S[0])
            try:
                await self._session(client, http)
            except Exception as exc:
                causes = exc.exceptions if isinstance(exc, ExceptionGroup) else (exc,)
                logger.warning("Prefect is down, so stages are not recorded: %s", causes[0])
            pause = RETRY_S[0] if self._ready.is_set() else min(longest, pause * 2)
            self._on_service_loop(self._ready.clear)
            self._on_service_loop(partial(self._follow, None))
            await self._clock.sleep(pause)

    async def _flush(self, http: httpx.AsyncClient) -> None:
        """Send what Prefect's own threads have buffered, if the server answers."""
        if not await self._healthy(http):
            return
        try:
            async with asyncio.timeout(FLUSH_S):
                await APILogHandler.aflush()
                drained = EventsWorker.drain_all()
                if inspect.isawaitable(drained):
                    await drained
        except TimeoutError:
            logger.info("the last events and log lines of this process did not reach Prefect")

    async def _session(self, client: PrefectClient, http: httpx.AsyncClient) -> None:
        """Serve one connection; raises when the server no longer answers."""
        peers = self._peers
        deployments = await register(
            client,
            flows=self._flows,
            pool=self._pool,
            node=peers.node if peers else None,
            outdated=peers is not None and await peers.outdate(),
        )
        await self._executor.record_ends(client)
        # Claimed runs may be waiting for a slot.
        held = {*self._executor.held, *self._claimed}
        await recover(client, pool=self._pool, owner=self._owner, held=held)
        await drop_backlog(client, deployments=deployments.values())
        worker = Worker(
            client=client,
            executor=self._executor,
            call=self._call,
            deployments=deployments,
            pool=self._pool,
            name=self._owner.node,
            owner=str(self._owner),
            claimed=self._claimed,
            healthy=lambda: self._healthy(http),
            tend=partial(self._tend, client),
            peers=peers,
            follow=lambda schedule: self._on_service_loop(partial(self._follow, schedule)),
            clock=self._clock,
        )
        async with self._executor.session(client, deployments):
            logger.info("stages are recorded at %s", self.ui_url)
            self._on_service_loop(self._ready.set)
            await worker.run()

    async def _tend(self, client: PrefectClient) -> None:
        """End what other nodes have left on the server, where this one plans."""
        peers = self._peers
        if peers is None or not peers.plans():
            return
        nodes = await peers.all()
        await recover_absent(client, pool=self._pool, present={*present(nodes), peers.node})
        await remove_others(client, pool=self._pool, nodes={node.name for node in nodes})

    async def _healthy(self, http: httpx.AsyncClient) -> bool:
        try:
            return (await http.get(f"{self.api_url}/health")).is_success
        except httpx.HTTPError:
            return False

    def _call(self, stage: Stage, parameters: Mapping[str, Any]) -> StageCall:
        return StageCall(
            stage=stage,
            parameters=parameters,
            stages=self._stages,
            services=self._services,
            loop=self._loop,
            context=self._context,
        )

    def _on_service_loop(self, what: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what)


class _Thread:
    """A daemon thread whose event loop runs one coroutine until it is stopped."""

    def __init__(self, main: Callable[[], Any]) -> None:
        self._main = main
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefect", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None]

    def start(self) -> None:
        self._thread.start()
        self._started.wait()

    async def call(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` there, unless the thread has ended."""
        try:
            done = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            return
        await asyncio.wrap_future(done)

    async def stop(self) -> None:
        with suppress(RuntimeError):  # its loop is closed: it has ended
            self._loop.call_soon_threadsafe(self._task.cancel)
        await asyncio.to_thread(self._thread.join, JOIN_S)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            try:
                runner.run(self._begin())
            except asyncio.CancelledError:
                logger.debug("Prefect's thread has stopped")
            except Exception:
                logger.exception("Prefect cannot be used; stages are not recorded")

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        current = asyncio.current_task()
        if current is None:
            raise RuntimeError("not inside a task")
        self._task = current
        self._started.set()
        await self._main()
