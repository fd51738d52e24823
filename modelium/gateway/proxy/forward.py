"""Forwards a request to the gateway of the node that has its model."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from modelium.gateway.asgi import Scope
from modelium.gateway.forwarding import MOST_HOPS, Sender, marks
from modelium.gateway.problems import HttpProblem
from modelium.gateway.proxy.reply import Reply
from modelium.gateway.proxy.upstream import NotConnected, UpstreamClient
from modelium.gateway.routes import Outgoing
from modelium.models import Priority, Upstream

TOO_LARGE = frozenset({413, 414, 431})
"""What a gateway, or a proxy before it, says of one request: the next one may fit."""


class NotTaken(Exception):
    """The other gateway did not take the request; nothing of it reached an engine."""

    def __init__(self, upstream: Upstream, why: str) -> None:
        """``upstream``: the gateway; ``why``: for the log."""
        super().__init__(why)
        self.upstream = upstream


def refuse_loop(sender: Sender | None, upstream: Upstream | None = None) -> None:
    """Refuse a request that was forwarded too often: nodes do not agree on where its model is.

    Args:
        sender: the node that it comes from; ``None``: a client.
        upstream: where it would be forwarded; ``None``: it has just arrived.

    Raises:
        HttpProblem: 508.
    """
    hops = sender.hops if sender is not None else 0
    if hops + (upstream is not None) > MOST_HOPS:
        raise HttpProblem(
            508,
            "the request was forwarded too often; the model is moving between machines, retry",
            reason="moved",
            retry_after_s=1.0,
        )


async def forward(
    client: UpstreamClient,
    upstream: Upstream,
    sent: Outgoing,
    *,
    scope: Scope,
    sender: Sender | None,
    priority: Priority | None,
    client_id: str,
    reply: Reply,
    on_end: Callable[[int], None],
) -> None:
    """Send the request to ``upstream``, another node's gateway, and its answer to the client.

    Args:
        client: sends it.
        upstream: the gateway.
        sent: path and body.
        scope: the client's request.
        sender: the node that it comes from; ``None``: a client.
        priority: the class that the request waits in, if it has one.
        client_id: whose request it is.
        reply: to the client.
        on_end: called with the status of an answer for the client when it has ended.

    Raises:
        NotTaken: it can be sent again.
        EngineFailed: as `Reply.forward`.
        Unavailable: the connection ended before an answer began.
        HttpProblem: 508, it was forwarded too often; or it is too large for the gateway there.
    """
    refuse_loop(sender, upstream)
    query = scope["query_string"]
    try:
        async with client.send(
            upstream,
            method=scope["method"],
            target=f"{sent.path}?{query.decode('latin-1')}" if query else sent.path,
            headers=scope["headers"],
            body=sent.body,
            marks=marks(1 if sender is None else sender.hops + 1, priority, client_id),
        ) as answer:
            if not answer.is_taken and answer.status in TOO_LARGE:
                raise HttpProblem(
                    answer.status,
                    "the request is too large to be passed on to the machine that has the model",
                    reason="too-large",
                )
            if not answer.is_taken:
                # Redirects, too: the secret is for this address alone.
                raise NotTaken(upstream, f"its answer was HTTP {answer.status}")
            try:
                await reply.forward(answer, upstream.served_name)
            finally:  # clients disconnect after the last event of a stream
                on_end(answer.status)
    except NotConnected as exc:
        cause = exc.__cause__
        unknown = isinstance(cause, ssl.SSLCertVerificationError) and "issuer" in str(cause)
        remedy = "; gateway.tls_ca has to name what signed its certificate" if unknown else ""
        raise NotTaken(upstream, f"{type(cause).__name__}: {cause}{remedy}") from exc
