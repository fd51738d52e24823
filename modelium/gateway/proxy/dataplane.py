"""The data plane: holds a request until its model is ready, then forwards it to the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from modelium.errors import ModeliumError, Unavailable
from modelium.gateway.access.keyring import KeyHolder, key_holder
from modelium.gateway.asgi import (
    BodyTooLarge,
    CancelOnDisconnect,
    ClientGone,
    Receive,
    Scope,
    Send,
    read_body,
)
from modelium.gateway.problems import HttpProblem, status_of
from modelium.gateway.proxy.names import ModelReference, Names
from modelium.gateway.proxy.reply import CommentedAdmission, EngineFailed, Reply
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.gateway.proxy.usage import Usage
from modelium.gateway.routes import Outgoing, Route, fields_of, match, model_of, outgoing
from modelium.models import Upstream
from modelium.ports import Clock
from modelium.routing.admission import Admission
from modelium.routing.switchboard import Switchboard
from modelium.traffic.request_log import LoggedRequest

MAX_HELD_BYTES = 1024**3
"""Limit for the bodies of all requests that wait or are in flight."""


OnAnswered = Callable[[LoggedRequest], None]
"""Called for each answered request; must return at once."""


class RefusalMetrics(Protocol):
    """Counts refused requests."""

    def on_request_refused(self, model: str, reason: str) -> None:
        """Count a request for ``model`` that got a 429 or 503; ``reason`` is the error's slug."""


class DataPlane:
    """Answers inference requests."""

    def __init__(
        self,
        *,
        switchboard: Switchboard,
        client: UpstreamClient,
        names: Names,
        refusals: RefusalMetrics,
        clock: Clock,
        on_answered: OnAnswered | None = None,
        max_body_bytes: int,
        max_held_bytes: int = MAX_HELD_BYTES,
        comment_every_s: float | None = None,
        default_max_tokens: int | None = None,
        max_tokens: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Create it.

        Args:
            switchboard: admits requests.
            client: sends them to the engines.
            names: resolves aliases and versions.
            refusals: counts each 429 and 503.
            clock: for the request log.
            on_answered: called for each answered request.
            max_body_bytes: larger bodies get a 413.
            max_held_bytes: limit for all bodies together; past it requests get a 503.
            comment_every_s: interval of the comments in a stream that waits for its model;
                ``None``: no comments.
            default_max_tokens: bound for an answer whose request sets none; ``None``: none.
            max_tokens: model → the same for this model.
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
        self._default_max_tokens = default_max_tokens
        self._max_tokens = max_tokens
        self._held_bytes = 0

    def bound(self, default: int | None, max_tokens: Mapping[str, int]) -> None:
        """Have these bounds apply to further requests; as the arguments of the same names."""
        self._default_max_tokens, self._max_tokens = default, max_tokens

    def route(self, scope: Scope) -> Route | None:
        """Return the route of a data-plane request; ``None`` for any other."""
        return match(scope["method"], scope["path"], scope["raw_path"])

    async def answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; errors of the engine are forwarded unchanged."""
        usage = Usage(at=self._clock.time()) if self._on_answered is not None else None
        reply = Reply(path=scope["path"], send=send, usage=usage)
        named = self._names.resolve(route.model or "")
        try:
            body = await read_body(scope, receive, limit=self._max_body_bytes)
            content = fields_of(route, body)
            if content is not None and not route.model:
                named = self._names.resolve(model_of(content))
            await self._within_limits(route, named, body, content, scope, receive, reply)
        except (ClientGone, EngineFailed):
            pass
        except BodyTooLarge:
            message = f"the request body exceeds {self._max_body_bytes} bytes"
            # The server discards the rest: closing the connection could lose the answer.
            await reply.refuse(HttpProblem(413, message, reason="too-large"))
        except ModeliumError as error:
            if status_of(error) in (429, 503):
                self._refusals.on_request_refused(named.model, error.reason)
            await reply.refuse(error)

    async def _within_limits(
        self,
        route: Route,
        named: ModelReference,
        body: bytes,
        content: dict[str, object] | None,
        scope: Scope,
        receive: Receive,
        reply: Reply,
    ) -> None:
        """Answer the request while it counts against the limits of its key and of the gateway."""
        holder = key_holder(scope)
        if self._held_bytes + len(body) > self._max_held_bytes:
            raise Unavailable(
                f"request bodies use all of the gateway's {self._max_held_bytes} bytes; retry"
            )
        if holder is not None:
            holder.enter(named.model)
        self._held_bytes += len(body)
        try:
            async with CancelOnDisconnect(receive):
                await self._exchange(route, named, body, content, scope, reply, holder)
        finally:
            self._held_bytes -= len(body)
            if holder is not None:
                holder.leave()

    async def _exchange(
        self,
        route: Route,
        named: ModelReference,
        body: bytes,
        content: dict[str, object] | None,
        scope: Scope,
        reply: Reply,
        holder: KeyHolder | None,
    ) -> None:
        problem: HttpProblem | None = None
        streams = content is not None and content.get("stream") is True
        async with self._admission(named, holder, reply, streams=streams) as upstream:
            try:
                sent = outgoing(
                    route,
                    named.model,
                    upstream,
                    body,
                    content,
                    max_tokens=self._max_tokens.get(named.model, self._default_max_tokens),
                )
            except HttpProblem as exc:
                # Raised outside: a client's mistake must not count as the model's failure.
                problem = exc
            else:
                await self._forward(named.model, upstream, sent, scope, reply)
        if problem is not None:
            raise problem

    def _admission(
        self, named: ModelReference, holder: KeyHolder | None, reply: Reply, *, streams: bool
    ) -> Admission | CommentedAdmission:
        board, model = self._switchboard, named.model
        priority = holder.priority if holder is not None else None
        admission = board.admit(model, version=named.version, priority=priority)
        if not streams or self._comment_every_s is None or board.upstream(model) is not None:
            return admission
        return CommentedAdmission(
            admission=admission,
            reply=reply,
            every_s=self._comment_every_s,
            text=f"waiting for {model} to be loaded",
        )

    async def _forward(
        self, model: str, upstream: Upstream, sent: Outgoing, scope: Scope, reply: Reply
    ) -> None:
        query = scope["query_string"]
        target = f"{sent.path}?{query.decode('latin-1')}" if query else sent.path
        began = self._clock.monotonic()
        try:
            async with self._client.send(
                upstream,
                method=scope["method"],
                target=target,
                headers=scope["headers"],
                body=sent.body,
            ) as answer:
                self._switchboard.judge(model, upstream, failed=answer.status >= 500)
                try:
                    await reply.forward(answer, model)
                finally:  # clients disconnect after the last event of a stream
                    if answer.status < 400 and sent.body:
                        self._log(model, reply, began)
        except Unavailable:
            self._switchboard.judge(model, upstream, failed=True)
            self._switchboard.suspect(model)
            raise

    def _log(self, model: str, reply: Reply, began: float) -> None:
        if self._on_answered is not None and reply.usage is not None:
            seconds = self._clock.monotonic() - began
            self._on_answered(reply.usage.log_entry(model, latency_s=seconds))
