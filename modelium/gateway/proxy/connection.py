"""One keep-alive HTTP/1.1 connection to an engine, one request at a time (no pool here)."""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from modelium.gateway.asgi import Headers

BUFFER_BYTES = 256 * 1024
"""Bytes buffered per request for a client that reads more slowly than the engine writes."""

HEAD_BYTES = 256 * 1024
"""Limit for the headers of an answer: four times what any server sends."""


class Interrupted(Exception):
    """The connection ended before the answer was complete."""


class Connection(asyncio.Protocol):
    """Sends a request and reads its answer; afterwards it is reusable or must be aborted."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._reset()
        self.used_at = self._loop.time()

    def _reset(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self._head_bytes = 0
        self._head_done = False
        self._has_body = True
        self._sized = False
        self._complete = False
        self._keep_alive = False
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._paused = False

    # --- for the client -------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the connection has not failed."""
        return self._failure is None

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer has arrived."""
        return self._complete

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow: request and answer are complete."""
        return (
            self._failure is None
            and self._complete
            and self._keep_alive
            and not self._chunks
            and self._transport is not None
            and not self._transport.get_write_buffer_size()
        )

    def send(self, *parts: bytes, has_body: bool) -> None:
        """Send a whole request. ``has_body``: false for HEAD, whose answer has no body."""
        if self._head_done:
            self._reset()
        self._has_body = has_body
        self.used_at = self._loop.time()
        if self._transport is not None and self._failure is None:
            for part in parts:
                self._transport.write(part)

    async def head(self) -> None:
        """Wait for `status` and `headers`.

        Raises:
            Interrupted: the connection ended first.
            TimeoutError: `expire` was called first.
        """
        while not self._head_done:
            if self._failure is not None:
                raise self._failure
            await self._more()

    async def chunk(self) -> tuple[bytes, bool]:
        """Wait for bytes of the body; return all that have arrived, and whether more will.

        Raises:
            Interrupted: the connection ended before the answer was complete.
            TimeoutError: `expire` was called first.
        """
        while True:
            chunks = self._chunks
            if chunks:
                data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                self._chunks = []
                self._buffered = 0
                if self._paused and self._transport is not None and self._failure is None:
                    self._paused = False
                    self.used_at = self._loop.time()
                    self._transport.resume_reading()
                return data, not self._complete
            if self._complete:
                return b"", False
            if self._failure is not None:
                raise self._failure
            await self._more()

    def abort(self) -> None:
        """Close the connection at once, which cancels the engine's work."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Fail if the client waits for the engine; not if the engine waits for a slow client."""
        if self._waiter is not None:
            self._fail(TimeoutError())
            self.abort()

    async def _more(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- asyncio's callbacks --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse ``data`` and wake the client, once per read."""
        self.used_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(Interrupted(f"invalid HTTP/1.1 response: {exc}"))
            self.abort()
            return
        if self._buffered > BUFFER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._head_done:
            self._wake()

    def eof_received(self) -> None:
        """Let the transport close itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request, unless the end of the connection marks the end of the answer."""
        if self._head_done and not self._sized and exc is None:
            self._complete = True
        cause = Interrupted(
            f"{type(exc).__name__}: {exc}" if exc else "the engine closed the connection"
        )
        self._fail(cause)

    def _fail(self, cause: Exception) -> None:
        if self._failure is None:
            self._failure = cause
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- httptools' callbacks -------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer; a final one follows an interim one (100, 103)."""
        if self._complete:
            raise Interrupted("unsolicited response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES:
            raise Interrupted(f"response headers exceed {HEAD_BYTES} bytes")
        name = name.lower()
        self._sized = self._sized or name in (b"content-length", b"transfer-encoding")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Make `status` and `headers` available."""
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers = []
            return
        self._head_done = True
        self._sized = self._sized or self.status in (204, 304)
        if not self._has_body:
            # The parser would wait for the announced body: the connection is not reused.
            self._complete = self._sized = True

    def on_body(self, body: bytes) -> None:
        """Store a part of the body."""
        if self._has_body:
            self._chunks.append(body)
            self._buffered += len(body)

    def on_message_complete(self) -> None:
        """Mark the answer as complete."""
        if self._head_done and self._has_body:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()
