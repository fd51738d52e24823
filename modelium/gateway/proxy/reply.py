"""What a client receives: the engine's answer, an error, or comments while it waits."""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus

from modelium.errors import ModeliumError
from modelium.gateway.asgi import Headers, Send, respond_json
from modelium.gateway.forwarding import ANSWERED
from modelium.gateway.problems import body_of, for_clients, headers_of, status_of
from modelium.gateway.proxy.fast_response import respond_in_one_write
from modelium.gateway.proxy.upstream import Answer, Interrupted
from modelium.gateway.proxy.usage import Usage
from modelium.models import Upstream
from modelium.routing.admission import Admission

logger = logging.getLogger(__name__)

ERROR_BYTES = 64 * 1024
"""Limit for an engine's error that is sent inside a stream; the rest is cut off."""


NOT_TAKEN = frozenset({404, 429, 508})
"""Refusals that say nothing of a forwarded request: the gateway that its client reached tries again
until it knows where the model is."""

SHUTTING_DOWN = "shutting-down"
"""Reason of another one."""


class EngineFailed(Exception):
    """Leaves the admission, so that a request whose 5xx was forwarded counts as failed."""


class Reply:
    """The answer to one request; sent once."""

    __slots__ = ("_marks", "_path", "_send", "_streaming", "usage")

    def __init__(
        self, *, path: str, send: Send, usage: Usage | None = None, forwarded: bool = False
    ) -> None:
        """Send nothing yet.

        Args:
            path: of the request; selects the format of errors.
            send: of the server.
            usage: counts tokens.
            forwarded: whether another gateway receives it, which is told what is for the client.
        """
        self._marks: Headers = [(ANSWERED, b"1")] if forwarded else []
        self.usage = usage
        self._path = path
        self._send = send
        self._streaming = False

    async def comment(self, text: str) -> None:
        """Send a comment in an event stream, which clients ignore; the first begins the stream."""
        if not self._streaming:
            self._streaming = True
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                *self._marks,
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._body(f": {text}\n\n".encode(), more=True)

    async def refuse(self, error: ModeliumError) -> None:
        """Send an error of the gateway; what an engine failed with may name paths."""
        status, said = status_of(error), str(error)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # else the client's own words are quoted
            said = for_clients(said)
        content = body_of(self._path, status, said, error.reason)
        if self._streaming:
            await self._last_event(json.dumps(content).encode())
        else:
            taken = status not in NOT_TAKEN and error.reason != SHUTTING_DOWN
            marks = self._marks if taken else []
            await respond_json(self._send, status, content, [*headers_of(error), *marks])

    async def forward(self, answer: Answer, model: str) -> None:
        """Send the engine's answer as it arrives.

        Raises:
            EngineFailed: it was a 5xx or incomplete; the client has received that.
        """
        try:
            if self._streaming and not (answer.status == 200 and answer.is_event_stream):
                head = await _head_of(answer)
                if self.usage is not None:
                    self.usage.feed(head)
                await self._last_event(head)
            elif answer.is_complete and not self._streaming:
                body, _ = await answer.chunk()
                if self.usage is not None:
                    self.usage.feed(body)
                headers = [pair for pair in answer.headers if pair[0] != b"content-length"]
                headers += self._marks
                await respond_in_one_write(self._send, answer.status, body, headers)
            else:
                await self._stream(answer)
        except Interrupted as exc:
            logger.warning("%s: the engine aborted its answer: %s", model, exc)
            if answer.is_event_stream:
                message = f"{model}: the engine aborted its answer"
                content = body_of(self._path, 502, message, "interrupted")
                await self._last_event(json.dumps(content).encode())
            # Otherwise the answer stays incomplete: the server closes the connection, so that
            # the client does not mistake it for a complete one.
            raise EngineFailed from exc
        if answer.status >= 500:
            raise EngineFailed

    async def _stream(self, answer: Answer) -> None:
        if not self._streaming:
            await self._send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": [*answer.headers, *self._marks] if self._marks else answer.headers,
                }
            )
        more, usage, events = True, self.usage, answer.is_event_stream
        while more:
            chunk, more = await answer.chunk()
            if usage is not None:
                usage.feed(chunk, events=events)
            await self._body(chunk, more=more)

    async def _last_event(self, data: bytes) -> None:
        """Send the event by which OpenAI's clients recognize an error in a stream."""
        # The empty line ends an event that was cut off.
        line = b" ".join(data.split(b"\n"))
        await self._body(b"\n\ndata: " + line + b"\n\n", more=False)

    async def _body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


class CommentedAdmission:
    """An admission that sends comments to the client while the request waits."""

    def __init__(self, *, admission: Admission, reply: Reply, every_s: float, text: str) -> None:
        """Send ``text`` every ``every_s`` seconds."""
        self._admission = admission
        self._reply = reply
        self._every_s = every_s
        self._text = text

    async def __aenter__(self) -> Upstream:
        entering = asyncio.ensure_future(self._admission.__aenter__())
        try:
            while not (await asyncio.wait({entering}, timeout=self._every_s))[0]:
                await self._reply.comment(self._text)
        except BaseException as exc:
            if not entering.cancel() and entering.exception() is None:
                await self._admission.__aexit__(type(exc), exc, None)
            raise
        return await entering

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        await self._admission.__aexit__(kind, error, trace)


async def _head_of(answer: Answer) -> bytes:
    parts, more = b"", True
    while more and len(parts) < ERROR_BYTES:
        chunk, more = await answer.chunk()
        parts += chunk
    return parts[:ERROR_BYTES]
