"""ASGI primitives: read a request's body, send an answer, notice a disconnect (no routing here)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


WATCH_AFTER_S = 0.05
"""Watching costs as much as a fast answer, so it starts late: an engine may work this long for a
client that has disconnected."""


class ClientGone(Exception):
    """The client closed its connection before its answer was complete."""


class BodyTooLarge(Exception):
    """The request's body exceeds the limit."""


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the first value of ``name`` (lower case), or ``None``."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


def peer(scope: Scope) -> str:
    """Return the address that a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _uncounted(size: int) -> None:
    pass


async def read_body(
    scope: Scope, receive: Receive, *, limit: int, grow: Callable[[int], None] = _uncounted
) -> bytes:
    """Read the whole body, up to ``limit`` bytes.

    ``grow`` is called with the size of each part before it is kept; what it raises ends the
    reading.

    Raises:
        BodyTooLarge: its Content-Length, or what has arrived, exceeds ``limit``.
        ClientGone: the client disconnected before the body was complete.
    """
    announced = header(scope["headers"], b"content-length")
    if announced is not None and announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLarge
        if part:
            grow(len(part))
            parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a complete answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, content: Any, headers: Headers) -> None:
    """Send a complete JSON answer."""
    body = json.dumps(content, separators=(",", ":")).encode()
    await respond(send, status, body, [(b"content-type", b"application/json"), *headers])


class CancelOnDisconnect:
    """Cancels the body of an ``async with`` when the client closes its connection.

    Enter it after reading the request's body. Watching starts after `WATCH_AFTER_S`.

    Raises:
        ClientGone: instead of the `CancelledError` that it caused.
    """

    __slots__ = ("_gone", "_later", "_receive", "_task", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a request must be handled in a task")
        self._task = task
        self._later = loop.call_later(WATCH_AFTER_S, self._start_watching)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._later.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # If the server also cancelled the task (shutdown), that cancellation propagates.
        if isinstance(error, asyncio.CancelledError) and self._gone and not self._task.uncancel():
            raise ClientGone from None

    def _start_watching(self) -> None:
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
