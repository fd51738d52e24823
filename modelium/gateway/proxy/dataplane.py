"""The data plane: holds a request until its model is ready, then forwards it to the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import ParamSpec, Protocol, TypeVar

from modelium.errors import ModeliumError, Unavailable
from modelium.gateway.access.keyring import key_holder
from modelium.gateway.asgi import (
    BodyTooLarge,
    CancelOnDisconnect,
    ClientGone,
    Receive,
    Scope,
    Send,
    read_body,
)
from modelium.gateway.forwarding import sender
from modelium.gateway.json_fields import SMALL_BYTES
from modelium.gateway.problems import HttpProblem, status_of
from modelium.gateway.proxy.forward import NotTaken, forward, refuse_loop
from modelium.gateway.proxy.held import MAX_HELD_BYTES, HeldBytes
from modelium.gateway.proxy.names import ModelReference, Names
from modelium.gateway.proxy.noting import AnswerCounts, Noting, OnAnswered
from modelium.gateway.proxy.reply import CommentedAdmission, EngineFailed, Reply
from modelium.gateway.proxy.request import Request, client_of
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.gateway.routes import Outgoing, Route, fields_of, match, model_of, outgoing
from modelium.models import Priority, Upstream
from modelium.ports import Clock
from modelium.routing.admission import Admission

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class RefusalMetrics(Protocol):
    """Counts refused requests."""

    def on_request_refused(self, model: str, reason: str) -> None:
        """Count a request for ``model`` that got a 429 or 503; ``reason`` is the error's slug."""


class Board(Protocol):
    """Admits requests; see `Switchboard`."""

    @property
    def traffic(self) -> AnswerCounts:
        """Counts them."""

    def admit(
        self,
        model: str,
        *,
        version: int | None = None,
        priority: Priority | None = None,
        arrives: bool = True,
        since: float | None = None,
    ) -> Admission:
        """Return the admission of one request."""

    def upstream(self, model: str) -> Upstream | None:
        """Where ``model`` answers, if it is open."""

    def judge(self, model: str, upstream: Upstream, *, failed: bool) -> None:
        """Count an answer of ``upstream``."""

    def suspect(self, model: str) -> None:
        """Its upstream was unreachable."""

    def lost(self, model: str, upstream: Upstream) -> bool:
        """Another node's gateway did not take a request; whether ``model`` was closed for that."""


class DataPlane:
    """Answers inference requests."""

    def __init__(
        self,
        *,
        switchboard: Board,
        client: UpstreamClient,
        names: Names,
        refusals: RefusalMetrics,
        clock: Clock,
        on_answered: OnAnswered | None = None,
        on_forwarded: OnAnswered | None = None,
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
            on_answered: called for each request of a client here that an engine here answered.
            on_forwarded: called for each one that another node answered.
            max_body_bytes: larger bodies get a 413.
            max_held_bytes: limit for all bodies together, those that still arrive included; past
                it requests get a 503, and past half of it one client's get a 429.
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
        self._noting = Noting(
            traffic=switchboard.traffic,
            clock=clock,
            on_answered=on_answered,
            on_forwarded=on_forwarded,
        )
        self._max_body_bytes = max_body_bytes
        self._held = HeldBytes(most=max_held_bytes)
        # One thread: large bodies are read in turn.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large bodies")
        self._comment_every_s = comment_every_s
        self._default_max_tokens = default_max_tokens
        self._max_tokens = max_tokens

    def close(self) -> None:
        """End the thread that reads large bodies."""
        self._thread.shutdown(wait=False)

    def bound(self, default: int | None, max_tokens: Mapping[str, int]) -> None:
        """Have these bounds apply to further requests; as the arguments of the same names."""
        self._default_max_tokens, self._max_tokens = default, max_tokens

    def route(self, scope: Scope) -> Route | None:
        """Return the route of a data-plane request; ``None`` for any other."""
        return match(scope["method"], scope["path"], scope["raw_path"])

    async def answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; errors of the engine are forwarded unchanged."""
        usage = self._noting.usage()
        node = sender(scope)
        reply = Reply(path=scope["path"], send=send, usage=usage, forwarded=node is not None)
        resolve = self._names.resolve if node is None else _as_named
        named = resolve(route.model or "")
        holder = key_holder(scope)
        client = client_of(scope, holder, node)
        try:
            refuse_loop(node)
            if holder is not None:
                if route.model:
                    holder.check(named.model)
                await holder.admit()
            try:
                with self._held.holding(client) as holding:
                    body = await read_body(
                        scope, receive, limit=self._max_body_bytes, grow=holding.grow
                    )
                    content = await self._aside(body, fields_of, route, body)
                    if content is not None and not route.model:
                        named = resolve(model_of(content))
                        if holder is not None:
                            holder.check(named.model)
                    request = Request(
                        route=route,
                        named=named,
                        content=content,
                        body=body,
                        scope=scope,
                        holder=holder,
                        sender=node,
                    )
                    del body
                    async with CancelOnDisconnect(receive):
                        await self._exchange(request, reply)
            finally:
                if holder is not None:
                    holder.leave()
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

    async def _aside(
        self, body: bytes, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Return what ``work`` returns, which runs in a thread where ``body`` is large."""
        if len(body) <= SMALL_BYTES:
            return work(*args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(work, *args, **kwargs))

    async def _exchange(self, request: Request, reply: Reply) -> None:
        """Have the request answered; one that another node did not take waits like any other."""
        since: float | None = None
        while True:
            began = asyncio.get_running_loop().time()
            try:
                return await self._attempt(request, reply, since)
            except NotTaken as exc:
                if self._switchboard.lost(request.named.model, exc.upstream):
                    logger.warning(
                        "%s: node %s did not take a request (%s); requests wait",
                        request.named.model,
                        exc.upstream.peer,
                        exc,
                    )
                since = began if since is None else since

    async def _attempt(self, request: Request, reply: Reply, since: float | None) -> None:
        problem: HttpProblem | None = None
        model, content = request.named.model, request.content
        async with self._admission(request, reply, since) as upstream:
            try:
                sent = await self._aside(
                    request.body,
                    outgoing,
                    request.route,
                    model,
                    upstream,
                    request.body,
                    content,
                    max_tokens=self._max_tokens.get(model, self._default_max_tokens),
                )
            except HttpProblem as exc:
                # Raised outside: a client's mistake must not count as the model's failure.
                problem = exc
            else:
                if upstream.peer:
                    await self._pass_on(request, upstream, sent, reply)
                else:
                    request.body = b""
                    await self._forward(request, upstream, sent, reply)
        if problem is not None:
            raise problem

    def _admission(
        self, request: Request, reply: Reply, since: float | None
    ) -> Admission | CommentedAdmission:
        board, model, content = self._switchboard, request.named.model, request.content
        admission = board.admit(
            model,
            version=request.named.version,
            priority=request.priority,
            arrives=request.sender is None and since is None,
            since=since,
        )
        streams = content is not None and content.get("stream") is True
        if not streams or self._comment_every_s is None or board.upstream(model) is not None:
            return admission
        return CommentedAdmission(
            admission=admission,
            reply=reply,
            every_s=self._comment_every_s,
            text=f"waiting for {model} to be loaded",
        )

    async def _pass_on(
        self, request: Request, upstream: Upstream, sent: Outgoing, reply: Reply
    ) -> None:
        """Forward to another node, whose gateway judges the engine and counts its tokens."""
        began = self._clock.monotonic()
        await forward(
            self._client,
            upstream,
            sent,
            scope=request.scope,
            sender=request.sender,
            priority=request.priority,
            client_id=request.client,
            reply=reply,
            on_end=lambda status: self._noting.passed_on(
                request, reply.usage, sent.body, status=status, began=began
            ),
        )

    async def _forward(
        self, request: Request, upstream: Upstream, sent: Outgoing, reply: Reply
    ) -> None:
        model, scope = request.named.model, request.scope
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
                    self._noting.answered(
                        request, reply.usage, sent.body, status=answer.status, began=began
                    )
        except Unavailable:
            self._switchboard.judge(model, upstream, failed=True)
            self._switchboard.suspect(model)
            raise


def _as_named(name: str) -> ModelReference:
    """Take a model's name from a gateway that has resolved aliases and checked the version."""
    return ModelReference(model=name)
