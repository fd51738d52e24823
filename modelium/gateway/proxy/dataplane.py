"""The data plane: holds a request until its model answers, then passes bytes both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from modelium.errors import ModeliumError, Unavailable
from modelium.gateway.access.keyring import Holder, holder_of
from modelium.gateway.asgi import (
    BodyTooLarge,
    ClientGone,
    Presence,
    Receive,
    Scope,
    Send,
    read_body,
)
from modelium.gateway.problems import HttpProblem, status_of
from modelium.gateway.proxy.names import Named, Names
from modelium.gateway.proxy.reply import EngineFailed, Patient, Reply
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.gateway.proxy.usage import Usage
from modelium.gateway.routes import Outgoing, Route, match, model_of, outgoing, parsed
from modelium.models import Upstream
from modelium.ports import Clock
from modelium.routing.admission import Admission
from modelium.routing.switchboard import Switchboard
from modelium.traffic.request_log import Asked

MAX_HELD_BYTES = 1024**3
"""Bound on the bodies of all requests in hand, waiting ones above all."""


OnAnswered = Callable[[Asked], None]
"""Is told of each answered request; must return at once."""


class Refusals(Protocol):
    """Counts requests that were sent away."""

    def on_request_refused(self, model: str, reason: str) -> None:
        """Count a request for ``model`` that was refused."""


class DataPlane:
    """Answers inference requests."""

    def __init__(
        self,
        *,
        switchboard: Switchboard,
        client: UpstreamClient,
        names: Names,
        refusals: Refusals,
        clock: Clock,
        on_answered: OnAnswered | None = None,
        max_body_bytes: int,
        max_held_bytes: int = MAX_HELD_BYTES,
        comment_every_s: float | None = None,
    ) -> None:
        """Take what it needs.

        Args:
            switchboard: admits.
            client: reaches the engines.
            names: resolves what clients call models.
            refusals: is told of each 429 and 503.
            clock: for the times of answered requests.
            on_answered: is told of them.
            max_body_bytes: larger requests get a 413.
            max_held_bytes: a request whose body would make it more gets a 503.
            comment_every_s: how often a stream that waits for its model gets a comment, if ever.
        """
        self._switchboard = switchboard
        self._client = client
        self._names = names
        self._refusals = refusals
        self._clock = clock
        self._on_answered = on_answered
        self._max_body_bytes = max_body_bytes
        self._max_held_bytes = max_held_bytes
        self._comment_every_s = comment_every_s
        self._held_bytes = 0

    def route(self, scope: Scope) -> Route | None:
        """Return the route of a request that is for the data plane."""
        return match(scope["method"], scope["path"], scope["raw_path"])

    async def answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; engine errors pass through as they are."""
        usage = Usage(at=self._clock.time()) if self._on_answered is not None else None
        reply = Reply(path=scope["path"], send=send, usage=usage)
        named = self._names.resolve(route.model or "")
        try:
            body = await read_body(scope, receive, limit=self._max_body_bytes)
            content = parsed(body) if route.api == "openai" else None
            if content is not None and not route.model:
                named = self._names.resolve(model_of(content))
            await self._in_hand(route, named, body, content, scope, receive, reply)
        except (ClientGone, EngineFailed):
            pass
        except BodyTooLarge:
            message = f"the body is over {self._max_body_bytes} bytes"
            # The server drops the rest: a closed connection could cost the client its answer.
            await reply.refuse(HttpProblem(413, message, reason="too-large"))
        except ModeliumError as error:
            if status_of(error) in (429, 503):
                self._refusals.on_request_refused(named.model, error.reason)
            await reply.refuse(error)

    async def _in_hand(
        self,
        route: Route,
        named: Named,
        body: bytes,
        content: dict[str, object] | None,
        scope: Scope,
        receive: Receive,
        reply: Reply,
    ) -> None:
        """Exchange while the request counts against what its key and the gateway may hold."""
        holder = holder_of(scope)
        if self._held_bytes + len(body) > self._max_held_bytes:
            raise Unavailable("the gateway holds too much for requests that wait; try again")
        if holder is not None:
            holder.enter(named.model)
        self._held_bytes += len(body)
        try:
            async with Presence(receive):
                await self._exchange(route, named, body, content, scope, reply, holder)
        finally:
            self._held_bytes -= len(body)
            if holder is not None:
                holder.leave()

    async def _exchange(
        self,
        route: Route,
        named: Named,
        body: bytes,
        content: dict[str, object] | None,
        scope: Scope,
        reply: Reply,
        holder: Holder | None,
    ) -> None:
        problem: HttpProblem | None = None
        streams = content is not None and content.get("stream") is True
        async with self._admission(named, holder, reply, streams=streams) as upstream:
            try:
                going = outgoing(route, named.model, upstream, body, content)
            except HttpProblem as exc:
                # Raised outside: the client's mistake is no failed request of the model.
                problem = exc
            else:
                await self._forward(named.model, upstream, going, scope, reply)
        if problem is not None:
            raise problem

    def _admission(
        self, named: Named, holder: Holder | None, reply: Reply, *, streams: bool
    ) -> Admission | Patient:
        board, model = self._switchboard, named.model
        priority = holder.priority if holder is not None else None
        admission = board.admit(model, version=named.version, priority=priority)
        if not streams or self._comment_every_s is None or board.upstream(model) is not None:
            return admission
        return Patient(
            admission=admission,
            reply=reply,
            every_s=self._comment_every_s,
            text=f"waiting for {model} to be loaded",
        )

    async def _forward(
        self, model: str, upstream: Upstream, going: Outgoing, scope: Scope, reply: Reply
    ) -> None:
        query = scope["query_string"]
        target = f"{going.path}?{query.decode('latin-1')}" if query else going.path
        began = self._clock.monotonic()
        try:
            async with self._client.send(
                upstream,
                method=scope["method"],
                target=target,
                headers=scope["headers"],
                body=going.body,
            ) as answer:
                try:
                    await reply.pass_on(answer, model)
                finally:  # clients leave streams at their last event
                    if answer.status < 400 and going.body:
                        self._note(model, reply, began)
        except Unavailable:
            self._switchboard.suspect(model)
            raise

    def _note(self, model: str, reply: Reply, began: float) -> None:
        if self._on_answered is not None and reply.usage is not None:
            seconds = self._clock.monotonic() - began
            self._on_answered(reply.usage.line(model, latency_s=seconds))
