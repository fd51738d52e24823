"""The data plane's HTTP client: a pool of keep-alive connections to all engines and other gateways.

Built on httptools rather than a general client: a request costs about a quarter of what it costs
with aiohttp (figures in docs/gateway.md). It supports what engines need: HTTP/1.1, complete request
bodies, one request at a time per connection; to gateways of other nodes also TLS.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from itertools import chain
from typing import cast

from modelium.devices.listeners import listening_user
from modelium.errors import DeadlineExceeded, ModeliumError, Unavailable
from modelium.gateway.asgi import Headers
from modelium.gateway.forwarding import ANSWERED
from modelium.gateway.proxy.connection import Connection, Interrupted
from modelium.gateway.proxy.message import NOT_RETURNED, end_to_end, request_of
from modelium.models import Upstream

CONNECT_TIMEOUT_S = 5.0
"""Engines are on this machine or its network; one that accepts no sooner is down."""

SILENCE_TIMEOUT_S = 600.0
"""Longest pause within an answer; the default timeout of OpenAI's own client."""

KEEP_ALIVE_S = 3.0
"""Idle connections are closed earlier than engines do it (uvicorn, thus vLLM and Ray Serve, and
llama.cpp: 5 s), so that no request is sent on a connection that is being closed."""

SWEEP_S = 1.0
"""Interval of the search for idle and silent connections; timers per request would cost more."""

BODILESS = frozenset({204, 304})
"""Statuses whose answers have no body and no length."""

__all__ = ["Answer", "Interrupted", "NotConnected", "UpstreamClient"]

Address = tuple[str, int, str, bool]
"""Host and port, the Unix socket that takes their place, and whether TLS is spoken."""


class NotConnected(Unavailable):
    """No connection: the request was not sent, and may be sent elsewhere."""

    reason = "engine-unreachable"


class Answer:
    """A request and its answer: an async context manager; entering waits for the answer's head.

    Leaving it returns the connection to the pool if the answer was read completely, else closes
    it.
    """

    __slots__ = (
        "_client",
        "_connection",
        "_has_body",
        "_parts",
        "_upstream",
        "headers",
        "is_taken",
        "status",
    )

    def __init__(
        self,
        *,
        client: UpstreamClient,
        upstream: Upstream,
        parts: tuple[bytes, ...],
        has_body: bool,
    ) -> None:
        """``parts``: the request in wire format; ``has_body``: its answer may have a body."""
        self._client = client
        self._upstream = upstream
        self._parts = parts
        self._has_body = has_body
        self._connection: Connection | None = None
        self.status = 0
        self.headers: Headers = []
        self.is_taken = True
        """Whether it is for the client; else another node's gateway did not take the request."""

    async def __aenter__(self) -> Answer:
        """Send the request and wait for the answer's head.

        Raises:
            NotConnected: nothing was sent.
            Unavailable: the connection ended before the answer began.
            DeadlineExceeded: the answer did not begin within ``silence_timeout_s``.
        """
        connection = await self._client.connection(self._upstream)
        self._connection = connection
        try:
            connection.send(*self._parts, has_body=self._has_body)
            self._parts = ()
            await connection.head()
        except TimeoutError as exc:
            self._client.release(self._upstream, connection)
            raise DeadlineExceeded(
                f"{self._upstream.served_name}: {_who(self._upstream)} did not answer within "
                f"{self._client.silence_timeout_s:g} s"
            ) from exc
        except Interrupted as exc:
            self._client.release(self._upstream, connection)
            raise unreachable(self._upstream, exc) from exc
        except BaseException:
            self._client.release(self._upstream, connection)
            raise
        self.status = connection.status
        if self._upstream.peer:
            self.is_taken = any(name == ANSWERED for name, _ in connection.headers)
        self.headers = end_to_end(connection.headers, NOT_RETURNED)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._connection is not None:
            self._client.release(self._upstream, self._connection)

    @property
    def is_event_stream(self) -> bool:
        """Whether the answer consists of server-sent events."""
        return any(
            name == b"content-type" and value.lower().startswith(b"text/event-stream")
            for name, value in self.headers
        )

    @property
    def is_complete(self) -> bool:
        """Whether the answer has a body and all of it has arrived: one `chunk` returns it."""
        return (
            self._connection is not None
            and self._connection.is_complete
            and self._has_body
            and self.status not in BODILESS
        )

    async def chunk(self) -> tuple[bytes, bool]:
        """Wait for bytes of the body; return all that have arrived, and whether more will.

        It does not wait for a full buffer: each event of a stream is returned as it arrives.

        Raises:
            Interrupted: the answer ended before it was complete.
        """
        if self._connection is None:
            raise RuntimeError("enter the answer before reading it")
        try:
            return await self._connection.chunk()
        except TimeoutError as exc:
            raise Interrupted(f"no data for {self._client.silence_timeout_s:g} s") from exc


class UpstreamClient:
    """The pool, as an async context manager. Lives on one event loop."""

    def __init__(
        self,
        *,
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
        trust: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        """Start without connections.

        Args:
            silence_timeout_s: longest pause within an answer.
            trust: returns by what certificates of other nodes are checked; called when needed.
        """
        self.silence_timeout_s = silence_timeout_s
        self._trust = trust
        self._context: ssl.SSLContext | None = None
        self._idle: dict[Address, list[Connection]] = {}
        self._busy: set[Connection] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> UpstreamClient:
        self._loop = asyncio.get_running_loop()
        self._sweep()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for connection in (*self._busy, *(c for idle in self._idle.values() for c in idle)):
            connection.abort()
        self._busy.clear()
        self._idle.clear()

    def send(
        self,
        upstream: Upstream,
        *,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        marks: Headers | None = None,
    ) -> Answer:
        """Return the exchange of a request for ``target`` (encoded path and query); enter it.

        ``marks``: what the gateway itself tells another one.
        """
        if self._sweeping is None:
            raise RuntimeError("enter the client before sending")
        return Answer(
            client=self,
            upstream=upstream,
            parts=request_of(upstream, method, target, headers, body, marks),
            has_body=method != "HEAD",
        )

    async def connection(self, upstream: Upstream) -> Connection:
        """Return a connection to ``upstream`` for exclusive use until `release`.

        Raises:
            NotConnected: ``upstream`` did not accept a connection within `CONNECT_TIMEOUT_S`, or
                its certificate is not trusted.
        """
        idle = self._idle.get(_address(upstream))
        oldest = self._loop.time() - KEEP_ALIVE_S
        while idle:
            # The most recently used one, so that the others expire.
            known = idle.pop()
            if known.is_open and known.used_at > oldest:
                self._busy.add(known)
                return known
            known.abort()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if upstream.socket:
                    _, fresh = await self._loop.create_unix_connection(Connection, upstream.socket)
                else:
                    transport, fresh = await self._loop.create_connection(
                        Connection,
                        upstream.host,
                        upstream.port,
                        ssl=self._tls() if upstream.tls else None,
                    )
                    _check_listener(upstream, transport)
        except (OSError, TimeoutError) as exc:
            raise NotConnected(str(unreachable(upstream, exc))) from exc
        self._busy.add(fresh)
        return fresh

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self._trust()
        return self._context

    @property
    def connections(self) -> int:
        """The number of open connections, in use or idle."""
        return sum(c.is_open for c in (*self._busy, *chain.from_iterable(self._idle.values())))

    def release(self, upstream: Upstream, connection: Connection) -> None:
        """Return a connection to the pool if it is reusable, else close it."""
        self._busy.discard(connection)
        if connection.is_reusable and self._sweeping is not None:
            self._idle.setdefault(_address(upstream), []).append(connection)
        else:
            connection.abort()

    def _sweep(self) -> None:
        """Close connections that have been idle or silent for too long."""
        now = self._loop.time()
        for connection in self._busy:
            if now - connection.used_at > self.silence_timeout_s:
                connection.expire()
        for address, idle in tuple(self._idle.items()):
            live = [c for c in idle if c.is_open and now - c.used_at <= KEEP_ALIVE_S]
            for connection in set(idle) - set(live):
                connection.abort()
            if live:
                self._idle[address] = live
            else:
                del self._idle[address]
        pause = min(SWEEP_S, self.silence_timeout_s / 4)
        self._sweeping = self._loop.call_later(pause, self._sweep)


def _check_listener(upstream: Upstream, transport: asyncio.Transport) -> None:
    """Refuse a connection to a program of another user, which took the port of a dead engine.

    Raises:
        ConnectionRefusedError: it is one.
    """
    address = cast("tuple[str, int] | None", transport.get_extra_info("peername"))
    if upstream.user is None or (address and listening_user(*address[:2]) == upstream.user):
        return
    transport.abort()
    raise ConnectionRefusedError(f"port {upstream.port} belongs to another program")


def _address(upstream: Upstream) -> Address:
    return (upstream.host, upstream.port, upstream.socket, upstream.tls)


def _who(upstream: Upstream) -> str:
    return f"node {upstream.peer}" if upstream.peer else "the engine"


def unreachable(upstream: Upstream, cause: Exception) -> ModeliumError:
    """Return the error for an engine that does not answer."""
    error = Unavailable(
        f"{upstream.served_name}: {_who(upstream)} does not answer ({type(cause).__name__}); retry"
    )
    error.reason = "engine-unreachable"
    return error
