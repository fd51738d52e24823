"""The gateway's life: socket, routes, HTTP server and connection pool."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import cast

import uvicorn

from modelium import config
from modelium.config.hosts import authority, bind
from modelium.control.operations import Operations
from modelium.errors import ConfigError, Unavailable
from modelium.gateway.access.auth import AuthMiddleware
from modelium.gateway.access.identities import Identities
from modelium.gateway.access.keyring import Keyring
from modelium.gateway.access.strangers import Strangers
from modelium.gateway.api.app import create_app, limit_body
from modelium.gateway.api.signatures import Signatures
from modelium.gateway.asgi import Receive, Scope, Send
from modelium.gateway.certificates import certificate_of, trust_of
from modelium.gateway.connections import (
    KEEP_ALIVE_S,
    Connections,
    bounds_for,
    raise_open_files,
)
from modelium.gateway.protocol import GuardedProtocol
from modelium.gateway.proxy.dataplane import DataPlane
from modelium.gateway.proxy.names import Names
from modelium.gateway.proxy.noting import OnAnswered
from modelium.gateway.proxy.reply import SHUTTING_DOWN
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.metrics import Metrics
from modelium.ports import Clock
from modelium.routing.switchboard import Switchboard

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Limit for a request body: a dozen photos in base64. Each waiting request holds its own."""

SHUTDOWN_GRACE_S = 30.0
"""Default for how long shutdown waits for requests in flight."""

BACKLOG = 2048

HANDSHAKE_S = 10.0
"""How long a client may take to agree on TLS; until then it counts to no limit."""


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
        identities: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
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
            identities: returns the digest of each node's secret → the node; ``None``: the store is
                not shared.

        Raises:
            ConfigError: a certificate, a key or the trusted ones cannot be used.
        """
        self._config = config
        self._switchboard = switchboard
        self._certificate = certificate_of(config)
        self._client = UpstreamClient(trust=trust_of(config))
        self._grace_s = shutdown_grace_s
        self._keys = Keyring(read=operations.keys, clock=clock, important_teams=important_teams)
        self._nodes = Identities(read=identities, clock=clock) if identities else None
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
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def apply(self, whole: config.Config) -> None:
        """Have what a reload may change apply to further requests: aliases, teams, bounds."""
        self._names.replace(whole.gateway.aliases)
        self._keys.rank(whole.orchestration.policies.high_priority_teams)
        self._data.bound(whole.gateway.default_max_tokens, whole.max_tokens())

    async def __aenter__(self) -> Gateway:
        """Listen and serve.

        Raises:
            ConfigError: it cannot listen on the configured address.
            Unavailable: the HTTP server stopped during startup.
        """
        await self._keys.refresh()
        if self._nodes is not None:
            await self._nodes.refresh()
        token = self._config.token
        app = AuthMiddleware(
            app=self._dispatch,
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
        self._socket = _listen(self._config.host, self._config.port)
        self._port = self._socket.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                app=app,
                # A class is expected, but only called.
                http=cast("type[asyncio.Protocol]", partial(GuardedProtocol, guard=guard)),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=round(KEEP_ALIVE_S),
                timeout_graceful_shutdown=max(1, round(self._grace_s)),
            ),
            tls=self._certificate.context if self._certificate else None,
        )
        await self._client.__aenter__()
        self._tasks = [
            asyncio.create_task(self._keys.run(), name="api keys"),
            asyncio.create_task(guard.watch(), name="slow clients"),
        ]
        if self._nodes is not None:
            self._tasks.append(asyncio.create_task(self._nodes.run(), name="nodes"))
        if self._certificate is not None:
            self._tasks.append(asyncio.create_task(self._certificate.watch(), name="certificate"))
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[self._socket]), name="gateway"
        )
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            for task in self._tasks:
                task.cancel()
            await self._client.__aexit__(None, None, None)
            self._socket.close()
            self._serving.result()
            raise Unavailable("the gateway's HTTP server stopped during startup; see the log")
        logger.info("gateway listening on %s", self.url)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop listening, refuse waiting requests, finish those in flight within the grace."""
        if self._server is None or self._serving is None:
            return
        ending = Unavailable("Modelium is shutting down; retry later")
        ending.reason = SHUTTING_DOWN
        self._switchboard.refuse_all(ending, retry_after_s=10.0)
        self._server.should_exit = True
        try:
            await self._serving
        finally:
            for task in self._tasks:
                task.cancel()
            self._data.close()
            await self._client.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        """``http://host:port``, or ``https``, with the actual port."""
        if self._socket is None or self._server is None:
            raise RuntimeError("enter the gateway before asking for its URL")
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://{authority(self._config.host, self._port)}"

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._data.route(scope)
        if route is not None:
            await self._data.answer(route, scope, receive, send)
        else:
            await self._control(scope, limit_body(receive), send)


class _Server(uvicorn.Server):
    """uvicorn inside a process that it does not own."""

    def __init__(self, config: uvicorn.Config, *, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._tls = tls
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The process handles signals itself and leaves the gateway during its shutdown.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._tls is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            loop, config = asyncio.get_running_loop(), self.config
            protocol = partial(
                cast("Callable[..., asyncio.Protocol]", config.http_protocol_class),
                config=config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            for one in sockets or ():
                server = await loop.create_server(
                    protocol,
                    sock=one,
                    ssl=self._tls,
                    backlog=config.backlog,
                    # uvicorn leaves it at a minute.
                    ssl_handshake_timeout=HANDSHAKE_S,
                )
                self.servers.append(server)
        self.up.set()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a taken port fails before anything is started."""
    try:
        listener = bind(host, port)
        try:
            listener.setblocking(False)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise ConfigError(
            f"gateway.host, gateway.port: cannot listen on {authority(host, port)} "
            f"({exc.strerror or exc}); use an address of this machine and a free port"
        ) from exc
    return listener
