"""One keep-alive connection to an engine: HTTP/1.1, a request at a time (no pool here)."""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from modelium.gateway.asgi import Headers

BUFFER_BYTES = 256 * 1024
"""Of an answer that its client reads more slowly than the engine writes, per request."""

HEAD_BYTES = 256 * 1024
"""Bound on an answer's headers: four times what any server sends."""


class Interrupted(Exception):
    """The engine broke off before or in the middle of its answer."""


class Connection(asyncio.Protocol):
    """Sends a request and reads its answer; then it is reusable, or to be aborted."""

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

    # --- what the client does with it -----------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it was not lost."""
        return self._failure is None

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer has come in."""
        return self._complete

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow: this one is over on both sides."""
        return (
            self._failure is None
            and self._complete
            and self._keep_alive
            and not self._chunks
            and self._transport is not None
            and not self._transport.get_write_buffer_size()
        )

    def send(self, data: bytes, *, has_body: bool) -> None:
        """Send a whole request. ``has_body``: false for HEAD, whose answer ends with its head."""
        if self._head_done:
            self._reset()
        self._has_body = has_body
        self.used_at = self._loop.time()
        if self._transport is not None and self._failure is None:
            self._transport.write(data)

    async def head(self) -> None:
        """Wait until `status` and `headers` are there.

        Raises:
            Interrupted: it was lost before.
            TimeoutError: `expire` was called before.
        """
        while not self._head_done:
            if self._failure is not None:
                raise self._failure
            await self._more()

    async def chunk(self) -> tuple[bytes, bool]:
        """Return the bytes that came in, once there are some, and whether more comes.

        Raises:
            Interrupted: it was lost before the answer was complete.
            TimeoutError: `expire` was called before.
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
        """Close it at once, which cancels the engine's work."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Give up on an engine that is silent; not on one whose client is slow to read."""
        if self._waiter is not None:
            self._fail(TimeoutError())
            self.abort()

    async def _more(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- asyncio's side -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came in; wake whoever waits, once per read."""
        self.used_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(Interrupted(f"no HTTP/1.1: {exc}"))
            self.abort()
            return
        if self._buffered > BUFFER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._head_done:
            self._wake()

    def eof_received(self) -> None:
        """Let the transport close."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way: well, where the end of the connection is the answer's."""
        if self._head_done and not self._sized and exc is None:
            self._complete = True
        cause = Interrupted(f"{type(exc).__name__}: {exc}" if exc else "the engine closed it")
        self._fail(cause)

    def _fail(self, cause: Exception) -> None:
        if self._failure is None:
            self._failure = cause
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- httptools' side ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a head; after an interim answer (100, 103) another one follows."""
        if self._complete:
            raise Interrupted("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES:
            raise Interrupted("its headers are too long")
        name = name.lower()
        self._sized = self._sized or name in (b"content-length", b"transfer-encoding")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Show the head."""
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers = []
            return
        self._head_done = True
        self._sized = self._sized or self.status in (204, 304)
        if not self._has_body:
            # The parser would wait for the body that the length announces: never reused.
            self._complete = self._sized = True

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._has_body:
            self._chunks.append(body)
            self._buffered += len(body)

    def on_message_complete(self) -> None:
        """Note that it is whole."""
        if self._head_done and self._has_body:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()
