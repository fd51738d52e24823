"""The few ASGI moves that the data plane is made of (no routing here)."""

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
"""Looking costs as much as a quick answer; an engine can waste this long on who has left."""


class ClientGone(Exception):
    """The client closed its connection before it had its answer."""


class BodyTooLarge(Exception):
    """The request's body is over the bound."""


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the first value of ``name`` (lower case), if it is there."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """Read the whole body, ``limit`` bytes at most.

    Raises:
        BodyTooLarge: by its Content-Length, or once more than ``limit`` came in.
        ClientGone: before the body was complete.
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
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a whole answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, content: Any, headers: Headers) -> None:
    """Send a whole JSON answer."""
    body = json.dumps(content, separators=(",", ":")).encode()
    await respond(send, status, body, [(b"content-type", b"application/json"), *headers])


class Presence:
    """Cancels the body of an ``async with`` when the client closes its connection.

    Enter it once the request's body is read. It looks only after `WATCH_AFTER_S`.

    Raises:
        ClientGone: in place of the cancellation that this caused.
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
            raise RuntimeError("a request is always handled in a task")
        self._task = task
        self._later = loop.call_later(WATCH_AFTER_S, self._look)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._later.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # The server's own cancellation (shutdown) may have come on top: that one goes on.
        if isinstance(error, asyncio.CancelledError) and self._gone and not self._task.uncancel():
            raise ClientGone from None

    def _look(self) -> None:
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
