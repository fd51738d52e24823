"""uvicorn's HTTP protocol with limits for connections, headers and slow clients.

With `proxy.fast_response` the only module that uses uvicorn's internals; pyproject.toml bounds
uvicorn's version for them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from modelium.gateway.connections import (
    KEEP_ALIVE_S,
    LINGER_S,
    SLOWEST_BYTES_PER_S,
    STALLED_S,
    UNREAD_S,
    Connections,
    peer_of,
)
from modelium.gateway.problems import body_of

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together, as of other servers; so are the next two."""
MAX_LINE_BYTES = 16 * 1024
MAX_HEADERS = 200

FRAMING_PER_BYTE = 8
"""Bytes that chunked encoding may add to each byte of a body: chunks of one byte add five."""


class _Refused(Exception):
    """Leaves the parser."""


class GuardedProtocol(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, guard: Connections, **settings: Any) -> None:
        """``guard``: counts it; the others are uvicorn's."""
        super().__init__(*args, **settings)
        self.peer = ""
        self._guard = guard
        self._timeout_s = guard.bounds.timeout_s
        self._refusal: tuple[int, str, str] | None = None
        self._since = self._heard_at = self._unread_since = self.loop.time()
        self._began_at: float | None = None
        self._reading_head = True
        self._head_bytes = 0
        self._framing = 0
        self._received = 0
        self._window_at, self._window_bytes = self._since, 0

    # --- for `Connections` ----------------------------------------------------------------

    def yields(self, now: float) -> float | None:
        """Return since when it waits for its client; ``None``: it has a request in work."""
        if not self._is_busy:
            return self._since
        stalled = self.cycle.more_body and now - self._heard_at > STALLED_S
        return self._heard_at if stalled else None

    def overdue(self, now: float) -> bool:
        """Whether its client has taken too long."""
        if self.flow.write_paused:
            return now - self._unread_since > UNREAD_S
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None:
            return now - self._since > self._timeout_s
        if not cycle.response_complete:
            return cycle.more_body and self._is_stalled(now)
        if cycle.more_body:
            return now - self._since > LINGER_S
        if self._began_at is not None:
            return now - max(self._since, self._began_at) > self._timeout_s
        return now - self._since > KEEP_ALIVE_S + self._timeout_s

    def end(self) -> None:
        """Close it, with an answer where a request has begun."""
        if self.transport.is_closing():
            # It waits for a client that does not read.
            self.transport.abort()
        elif self.flow.write_paused:
            self.transport.abort()
        elif (self._is_busy and not self.cycle.response_started) or self._head_bytes:
            self._refuse(408, "the request did not arrive in time", "request-timeout")
        else:
            self.transport.close()

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_stalled(self, now: float) -> bool:
        if self.flow.read_paused:
            self._window_at, self._window_bytes = now, self._received
        elif (passed := now - self._window_at) >= self._timeout_s:
            if self._received - self._window_bytes < SLOWEST_BYTES_PER_S * passed:
                return True
            self._window_at, self._window_bytes = now, self._received
        return False

    def _refuse(self, status: int, message: str, reason: str) -> None:
        """Answer without the application, and close."""
        if self._is_busy:
            self.cycle.disconnected = self.cycle.response_complete = True
            self.cycle.message_event.set()
        body = json.dumps(body_of("", status, message, reason)).encode()
        retry = b"retry-after: 5\r\n" if status == 503 else b""
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n%s\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head % (len(body), retry) + body)
        self.transport.close()

    # --- asyncio's callbacks --------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or refuse it."""
        super().connection_made(transport)
        self.peer = peer_of(self.client[0]) if self.client else ""
        if not self._guard.add(self, self.loop.time()):
            self._refuse(503, "the gateway has too many connections; retry", "connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no longer."""
        self._guard.remove(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Remember since when the client does not read."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def data_received(self, data: bytes) -> None:
        """Parse ``data``, within the limits for headers and for what frames a body."""
        if self.transport.is_closing():
            return
        size = len(data)
        self._heard_at = self.loop.time()
        self._received += size
        if self._reading_head:
            self._head_bytes += size
        else:
            self._framing += size
        super().data_received(data)
        if self._reading_head:
            if self._began_at is None:
                self._head_bytes = 0
            elif self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, *_too_large())
        elif self._framing > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(400, "the body's chunks have more framing than content", "bad-input")

    # --- httptools' callbacks -------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Note when the head began."""
        self._began_at = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Check the size of the head, and start the request."""
        headers = self.headers
        if len(headers) > MAX_HEADERS or self._head_bytes > MAX_LINE_BYTES:
            self._check(headers)
        self._reading_head, self._began_at = False, None
        self._head_bytes = self._framing = 0
        self._window_at, self._window_bytes = self._heard_at, self._received
        super().on_headers_complete()
        # Trailers after a chunked body are dropped: they would become headers of the request.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        self._framing = max(self._framing - (1 + FRAMING_PER_BYTE) * len(body), -MAX_HEAD_BYTES)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the next head."""
        # What is known of its size, where it came together with this request, is nothing.
        self._reading_head, self._head_bytes = True, MAX_LINE_BYTES + 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note since when the next request is awaited."""
        self._since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses."""
        if self._refusal is not None:
            self._refuse(*self._refusal)
        else:
            super().send_400_response(msg)

    def _check(self, headers: list[tuple[bytes, bytes]]) -> None:
        sizes = [len(name) + len(value) for name, value in headers]
        if len(self.url) > MAX_LINE_BYTES:
            self._refusal = (414, f"the URL exceeds {MAX_LINE_BYTES} bytes", "too-large")
        elif (
            len(sizes) > MAX_HEADERS
            or sum(sizes) + len(self.url) > MAX_HEAD_BYTES
            or max(sizes, default=0) > MAX_LINE_BYTES
        ):
            self._refusal = (431, *_too_large())
        if self._refusal is not None:
            raise _Refused


def _too_large() -> tuple[str, str]:
    return (
        f"the headers exceed {MAX_HEADERS} lines, {MAX_LINE_BYTES} bytes in one of them, or "
        f"{MAX_HEAD_BYTES} bytes together",
        "headers-too-large",
    )
