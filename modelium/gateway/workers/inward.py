"""Between a worker and the service: requests for all but inference, as the client sent them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from modelium.errors import ModeliumError, Unavailable
from modelium.gateway.asgi import (
    App,
    BodyTooLarge,
    CancelOnDisconnect,
    ClientGone,
    Receive,
    Scope,
    Send,
    peer,
    read_body,
    respond_json,
)
from modelium.gateway.http_server import BACKLOG, short_path
from modelium.gateway.problems import HttpProblem, body_of, headers_of, status_of
from modelium.gateway.proxy.held import HeldBytes
from modelium.gateway.proxy.message import HOP_BY_HOP
from modelium.gateway.proxy.upstream import Answer, Interrupted, UpstreamClient
from modelium.models import Upstream

SOCKET = "gateway.sock"
"""The service's, in its state directory."""

PEER = b"x-modelium-peer"
"""Header with the client's address, from a worker alone."""

MAX_BODY_BYTES = 1024 * 1024
"""As of `api.app`, which a worker does not import."""

MAX_HELD_BYTES = 64 * 1024 * 1024
"""Of all bodies at one worker: they are read before anybody looks at credentials."""

NOT_PASSED = HOP_BY_HOP | {PEER, b"content-length", b"expect"}


class Inward:
    """Sends requests to the service, which checks their credentials."""

    def __init__(self, *, client: UpstreamClient, path: str) -> None:
        """``path``: of the service's socket."""
        self._client = client
        self._held = HeldBytes(most=MAX_HELD_BYTES)
        self._service = Upstream(
            host="modelium", port=80, socket=path, served_name="Modelium", apis=frozenset()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            with self._held.holding(peer(scope)) as holding:
                body = await read_body(scope, receive, limit=MAX_BODY_BYTES, grow=holding.grow)
                async with CancelOnDisconnect(receive):
                    await self._pass(scope, body, send)
        except ClientGone:
            pass
        except BodyTooLarge:
            message = f"the request body exceeds {MAX_BODY_BYTES} bytes"
            await _refuse(HttpProblem(413, message, reason="too-large"), scope, send)
        except HttpProblem as exc:
            await _refuse(exc, scope, send)
        except ModeliumError:
            await _refuse(Unavailable("Modelium does not answer; retry"), scope, send)

    async def _pass(self, scope: Scope, body: bytes, send: Send) -> None:
        answer = Answer(
            client=self._client,
            upstream=self._service,
            parts=(_head(scope, len(body)), body),
            has_body=scope["method"] != "HEAD",
        )
        async with answer:
            begin = {"type": "http.response.start", "status": answer.status}
            await send({**begin, "headers": answer.headers})
            more = True
            while more:
                try:
                    chunk, more = await answer.chunk()
                except Interrupted:
                    return  # the server closes the connection: the answer is not complete
                await send({"type": "http.response.body", "body": chunk, "more_body": more})


def _head(scope: Scope, size: int) -> bytes:
    target = scope["raw_path"]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    parts = [scope["method"].encode(), b" ", target, b" HTTP/1.1\r\n"]
    for name, value in scope["headers"]:
        if name not in NOT_PASSED:
            parts += (name, b": ", value, b"\r\n")
    parts += (PEER, b": ", peer(scope).encode(), b"\r\ncontent-length: %d\r\n\r\n" % size)
    return b"".join(parts)


async def _refuse(error: ModeliumError, scope: Scope, send: Send) -> None:
    status = status_of(error)
    content = body_of(scope["path"], status, str(error), error.reason)
    await respond_json(send, status, content, headers_of(error))


@contextlib.contextmanager
def service_socket(folder: Path) -> Iterator[socket.socket]:
    """Yield the service's listening socket in ``folder``, which only this user can open."""
    place = folder / SOCKET
    place.unlink(missing_ok=True)  # of a service that was killed
    with short_path(folder) as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/{SOCKET}")
        try:
            place.chmod(0o600)
            listener.setblocking(False)
            listener.listen(BACKLOG)
            yield listener
        finally:
            place.unlink(missing_ok=True)


def from_workers(app: App) -> App:
    """Return ``app`` for a socket that only workers reach: its clients are theirs."""

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        for name, value in scope["headers"]:
            if name == PEER:
                scope["client"] = (value.decode("latin-1"), 0)
        await app(scope, receive, send)

    return inside
