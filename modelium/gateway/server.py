"""The gateway as one thing that is entered and left: socket, routes, server, client pool."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import uvicorn

from modelium import config
from modelium.errors import ConfigError, Unavailable
from modelium.gateway.access.auth import Guard
from modelium.gateway.access.keyring import KeyRing
from modelium.gateway.api.admin import Operations
from modelium.gateway.api.app import bounded, control_plane
from modelium.gateway.asgi import Receive, Scope, Send
from modelium.gateway.proxy.dataplane import DataPlane, OnAnswered
from modelium.gateway.proxy.names import Names
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.metrics import Metrics
from modelium.ports import Clock
from modelium.routing.switchboard import Switchboard

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Bound on a request's body: a dozen photos in base64. Each waiting request holds its own."""

KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections (OpenAI's: 5 s), so that they close first."""

SHUTDOWN_GRACE_S = 30.0
"""How long leaving waits for answers under way, unless told otherwise."""

BACKLOG = 2048


class Gateway:
    """An async context manager: entering it listens, leaving it finishes what is in flight."""

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
        max_body_bytes: int = MAX_BODY_BYTES,
        shutdown_grace_s: float = SHUTDOWN_GRACE_S,
    ) -> None:
        """Build the routes; listen to nothing yet.

        Args:
            config: address, token.
            switchboard: who answers for which model.
            operations: what the admin API and the webhook ask.
            metrics: shown at /metrics; counts refused requests.
            clock: for long polls.
            ingest: the key of the webhook's signatures.
            incoming: the drop zone; the webhook takes nothing from elsewhere.
            links: text → URL on the status page, e.g. the Prefect UI.
            important_teams: whose requests rank high among those that wait for a load.
            on_answered: is told of each answered request, for the request log.
            max_body_bytes: larger requests get a 413.
            shutdown_grace_s: how long leaving waits for answers under way.
        """
        self._config = config
        self._switchboard = switchboard
        self._client = UpstreamClient()
        self._grace_s = shutdown_grace_s
        self._keys = KeyRing(read=operations.keys, clock=clock, important_teams=important_teams)
        names = Names(aliases=config.aliases)
        self._data = DataPlane(
            switchboard=switchboard,
            client=self._client,
            names=names,
            refusals=metrics,
            clock=clock,
            on_answered=on_answered,
            max_body_bytes=max_body_bytes,
            comment_every_s=config.stream_comment_seconds,
        )
        secret = ingest.webhook_secret
        self._control = control_plane(
            operations=operations,
            keys=self._keys,
            names=names,
            switchboard=switchboard,
            metrics=metrics,
            clock=clock,
            incoming=incoming,
            webhook_secret=secret.get_secret_value() if secret else None,
            links=links,
        )
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Gateway:
        """Listen and serve.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        await self._keys.refresh()
        token = self._config.token
        guard = Guard(
            app=self._dispatch,
            token=token.get_secret_value() if token else None,
            keys=self._keys,
            host=self._config.host,
        )
        self._socket = _listen(self._config.host, self._config.port)
        self._port = self._socket.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                app=guard,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(self._grace_s)),
            )
        )
        await self._client.__aenter__()
        self._refreshing = asyncio.create_task(self._keys.run(), name="api keys")
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[self._socket]), name="gateway"
        )
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            self._refreshing.cancel()
            await self._client.__aexit__(None, None, None)
            self._socket.close()
            self._serving.result()
            raise Unavailable("the gateway's server ended while it started; see the log")
        logger.info("gateway listens on %s", self.url)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop listening, send waiters away, finish what is in flight within the grace."""
        if self._server is None or self._serving is None:
            return
        self._switchboard.refuse_all(
            Unavailable("Modelium is shutting down; try again soon"), retry_after_s=10.0
        )
        self._server.should_exit = True
        try:
            await self._serving
        finally:
            self._refreshing.cancel()
            await self._client.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        """``http://host:port``, with the port that was really taken."""
        if self._socket is None or self._server is None:
            raise RuntimeError("enter the gateway before asking for its URL")
        host = self._config.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._data.route(scope)
        if route is not None:
            await self._data.answer(route, scope, receive, send)
        else:
            await self._control(scope, bounded(receive), send)


class _Server(uvicorn.Server):
    """uvicorn as a guest in a process that is not its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The process handles its signals itself, and leaves the gateway in its turn.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a taken port shows before anything is started."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise ConfigError(
            f"gateway.host, gateway.port: cannot listen on {host}:{port} "
            f"({exc.strerror or exc}); choose an address of this machine and a free port"
        ) from exc
    return listener
