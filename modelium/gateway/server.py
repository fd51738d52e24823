"""The gateway's life: socket, routes, HTTP server and connection pool."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modelium import config
from modelium.config.hosts import authority
from modelium.control.operations import Operations
from modelium.errors import Unavailable
from modelium.gateway.access.auth import AuthMiddleware
from modelium.gateway.access.identities import Identities
from modelium.gateway.access.keyring import Keyring
from modelium.gateway.access.limits import AskPools, SharedLimits
from modelium.gateway.access.strangers import Strangers
from modelium.gateway.api.app import create_app, limit_body
from modelium.gateway.api.signatures import Signatures
from modelium.gateway.asgi import App, Receive, Scope, Send
from modelium.gateway.certificates import certificate_of, trust_of
from modelium.gateway.connections import Connections, bounds_for, raise_open_files
from modelium.gateway.http_server import HttpServer, listen, listen_shared
from modelium.gateway.proxy.dataplane import DataPlane
from modelium.gateway.proxy.names import Names
from modelium.gateway.proxy.noting import OnAnswered
from modelium.gateway.proxy.reply import SHUTTING_DOWN
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.gateway.workers.inward import from_workers, service_socket
from modelium.gateway.workers.ledger import Ledger
from modelium.gateway.workers.pool import WorkerPool
from modelium.gateway.workers.start import Start, section_of
from modelium.metrics import Metrics
from modelium.ports import Clock
from modelium.routing.switchboard import Switchboard

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Limit for a request body: a dozen photos in base64. Each waiting request holds its own."""

SHUTDOWN_GRACE_S = 30.0
"""Default for how long shutdown waits for requests in flight."""


class Gateway:
    """An async context manager: entering listens, leaving finishes the requests in flight."""

    def __init__(
        self,
        *,
        config: config.Gateway,
        switchboard: Switchboard,
        operations: Operations,
        metrics: Metrics,
        clock: Clock,
        ingest: config.Ingest,
        incoming: Path,
        links: Mapping[str, str],
        important_teams: frozenset[str] = frozenset(),
        on_answered: OnAnswered | None = None,
        on_forwarded: OnAnswered | None = None,
        max_tokens: Mapping[str, int] = MappingProxyType({}),
        max_body_bytes: int = MAX_BODY_BYTES,
        shutdown_grace_s: float = SHUTDOWN_GRACE_S,
        is_ready: Callable[[], bool] = lambda: True,
        folder: Path | None = None,
        identities: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
        pools: AskPools | None = None,
    ) -> None:
        """Build the routes; listens only once entered.

        Args:
            config: address, token, aliases.
            switchboard: routes requests to models.
            operations: carries out what the admin API and the webhook request.
            metrics: served at /metrics; counts refused requests.
            clock: for long polls, rate limits and the request log.
            ingest: has the secret and the window of the webhook's signatures.
            incoming: the drop zone, from which alone the webhook ingests.
            links: text → URL on the status page, e.g. the Prefect UI.
            important_teams: teams whose waiting requests have high priority.
            on_answered: called for each request that an engine here answered.
            on_forwarded: called for each one of a client here that another node answered.
            max_tokens: model → bound for answers whose requests set none.
            max_body_bytes: larger bodies get a 413.
            shutdown_grace_s: how long leaving waits for requests in flight.
            is_ready: whether the service has started; requests are held from the beginning.
            folder: of the socket by which workers reach the service; only the service's user may
                enter it. ``None``: one for temporary files.
            identities: returns the digest of each node's secret → the node; ``None``: the store is
                not shared.
            pools: asks for shares of keys' limits; ``None``: they hold for this gateway alone.

        Raises:
            ConfigError: a certificate, a key or the trusted ones cannot be used.
        """
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._on_answered = on_answered
        self._on_forwarded = on_forwarded
        self._important_teams = important_teams
        self._max_tokens = max_tokens
        self._max_body_bytes = max_body_bytes
        self._folder = folder
        self._identities = identities
        self._pool: WorkerPool | None = None
        self._switchboard = switchboard
        self._certificate = certificate_of(config)
        self._client = UpstreamClient(trust=trust_of(config))
        self._grace_s = shutdown_grace_s
        self._nodes = nodes = Identities(read=identities, clock=clock) if identities else None
        self._limits = (
            SharedLimits(ask=pools, gateways=lambda: nodes.count if nodes else 1, clock=clock)
            if pools
            else None
        )
        self._keys = Keyring(
            read=operations.keys,
            clock=clock,
            important_teams=important_teams,
            limits=self._limits,
        )
        self._strangers = strangers = Strangers(clock=clock, count=metrics.on_unauthorized)
        self._names = names = Names(aliases=config.aliases)
        self._data = DataPlane(
            switchboard=switchboard,
            client=self._client,
            names=names,
            refusals=metrics,
            clock=clock,
            on_answered=on_answered,
            on_forwarded=on_forwarded,
            max_body_bytes=max_body_bytes,
            comment_every_s=config.stream_comment_seconds,
            default_max_tokens=config.default_max_tokens,
            max_tokens=max_tokens,
        )
        secret = ingest.webhook_secret
        self._control = create_app(
            operations=operations,
            keys=self._keys,
            strangers=strangers,
            names=names,
            switchboard=switchboard,
            metrics=metrics,
            clock=clock,
            incoming=incoming,
            signatures=Signatures(
                secret=secret.get_secret_value(),
                window_s=ingest.webhook_window_seconds,
                now=clock.time,
            )
            if secret
            else None,
            links=links,
            is_ready=is_ready,
        )
        self._port: int | None = None
        self._stack: AsyncExitStack | None = None

    def apply(self, whole: config.Config) -> None:
        """Have what a reload may change apply to further requests: aliases, teams, bounds."""
        self._names.replace(whole.gateway.aliases)
        self._keys.rank(whole.orchestration.policies.high_priority_teams)
        self._data.bound(whole.gateway.default_max_tokens, whole.max_tokens())
        self._config, self._max_tokens = whole.gateway, whole.max_tokens()
        self._important_teams = whole.orchestration.policies.high_priority_teams
        if self._pool is not None:
            self._pool.tell(
                "apply",
                whole.gateway.aliases,
                sorted(self._important_teams),
                whole.gateway.default_max_tokens,
                dict(self._max_tokens),
            )

    async def __aenter__(self) -> Gateway:
        """Listen and serve.

        Raises:
            ConfigError: it cannot listen on the configured address.
            Unavailable: the HTTP server stopped during startup.
        """
        await self._keys.refresh()
        if self._nodes is not None:
            await self._nodes.refresh()
        async with AsyncExitStack() as stack:
            sockets = self._listen()
            for held in sockets:
                stack.callback(held.close)
            await stack.enter_async_context(self._client)
            stack.callback(self._data.close)
            if len(sockets) == 1:
                await self._serve(self._dispatch, sockets[0], stack)
            else:
                await self._serve_by_workers(sockets, stack)
            for name, run in self._upkeep().items():
                task = asyncio.create_task(run(), name=name)
                stack.callback(task.cancel)
            self._stack = stack.pop_all()
        logger.info("gateway listening on %s", self.url)
        return self

    def _upkeep(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Return what runs as long as the gateway does, by name."""
        runs: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {"api keys": self._keys.run}
        if self._nodes is not None:
            runs["nodes"] = self._nodes.run
        if self._limits is not None:
            runs["limits of keys"] = self._limits.run
        if self._certificate is not None:
            runs["certificate"] = self._certificate.watch
        return runs

    def _listen(self) -> list[socket.socket]:
        host, port, workers = self._config.host, self._config.port, self._config.workers
        shared = workers > 1
        sockets = listen_shared(host, port, workers) if shared else [listen(host, port)]
        self._port = sockets[0].getsockname()[1]
        return sockets

    async def _serve(self, app: App, listener: socket.socket, stack: AsyncExitStack) -> None:
        """Answer on ``listener``; leaving ``stack`` finishes the requests in flight."""
        token = self._config.token
        auth = AuthMiddleware(
            app=app,
            token=token.get_secret_value() if token else None,
            keys=self._keys,
            nodes=self._nodes,
            host=self._config.host,
            strangers=self._strangers,
        )
        guard = Connections(
            bounds=bounds_for(
                most=self._config.max_connections,
                most_each=self._config.max_connections_per_peer,
                timeout_s=self._config.client_timeout_seconds,
                open_files=raise_open_files(),
            )
        )
        inside = listener.family == socket.AF_UNIX
        certificate = None if inside else self._certificate
        server = HttpServer(
            from_workers(auth) if inside else auth,
            guard=guard,
            grace_s=self._grace_s,
            tls=certificate.context if certificate else None,
        )
        watching = asyncio.create_task(guard.watch(), name="slow clients")
        stack.callback(watching.cancel)
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="gateway")
        up = asyncio.create_task(server.up.wait())
        await asyncio.wait({up, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            serving.result()
            raise Unavailable("the gateway's HTTP server stopped during startup; see the log")
        stack.push_async_callback(_finished, server, serving)

    async def _serve_by_workers(self, sockets: list[socket.socket], stack: AsyncExitStack) -> None:
        """Have workers answer clients, and answer theirs here."""
        folder = self._folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inner = stack.enter_context(service_socket(folder))
        await self._serve(self._dispatch, inner, stack)
        self._pool = WorkerPool(
            host=self._config.host,
            sockets=sockets,
            switchboard=self._switchboard,
            keys=self._keys,
            ledger=lambda openings: Ledger(
                openings=openings,
                switchboard=self._switchboard,
                metrics=self._metrics,
                on_answered=self._on_answered,
                on_forwarded=self._on_forwarded,
            ),
            start=partial(self._start_of_worker, folder),
            failed=self._metrics.on_task_failed,
            clock=self._clock,
            grace_s=self._grace_s,
            nodes=self._identities,
        )
        await stack.enter_async_context(self._pool)

    def _start_of_worker(self, folder: Path) -> Start:
        return Start(
            gateway=section_of(self._config),
            folder=str(folder),
            important_teams=sorted(self._important_teams),
            max_tokens=dict(self._max_tokens),
            max_body_bytes=self._max_body_bytes,
            grace_s=self._grace_s,
            logs=self._on_answered is not None,
            logs_forwarded=self._on_forwarded is not None,
            shared=self._nodes is not None,
            level=logging.getLogger().getEffectiveLevel(),
        )

    async def __aexit__(self, *exc: object) -> None:
        """Stop listening, refuse waiting requests, finish those in flight within the grace."""
        if self._stack is None:
            return
        ending = Unavailable("Modelium is shutting down; retry later")
        ending.reason = SHUTTING_DOWN
        self._switchboard.refuse_all(ending, retry_after_s=10.0)
        stack, self._stack = self._stack, None
        await stack.aclose()

    @property
    def url(self) -> str:
        """``http://host:port``, or ``https``, with the actual port."""
        if self._port is None:
            raise RuntimeError("enter the gateway before asking for its URL")
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://{authority(self._config.host, self._port)}"

    @property
    def workers(self) -> Mapping[int, int]:
        """Worker → its process; empty where the service answers clients itself."""
        return self._pool.pids if self._pool is not None else {}

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._data.route(scope)
        if route is not None:
            await self._data.answer(route, scope, receive, send)
        else:
            await self._control(scope, limit_body(receive), send)


async def _finished(server: HttpServer, serving: asyncio.Task[None]) -> None:
    server.should_exit = True
    await serving
