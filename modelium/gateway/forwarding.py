"""Requests that one node's gateway forwards to another's: what marks them (no I/O here).

Only who shows the secret of a node is believed; from clients and engines these headers are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelium.gateway.asgi import Headers, Scope, header
from modelium.models import Priority

FORWARDED = b"x-modelium-forwarded"
"""How often a request was forwarded."""

PRIORITY = b"x-modelium-priority"
"""The class of its client's key."""

CLIENT = b"x-modelium-client"
"""Whose request it is, for bounds that each client has: a key's id, or an address."""

ANSWERED = b"x-modelium-answered"
"""On an answer: it is the client's. Without it, the gateway there did not take the request."""

MARKS = frozenset({FORWARDED, PRIORITY, CLIENT, ANSWERED})

MOST_HOPS = 2
"""To the node that had the model, and from there to the one that has it by now."""

SENDER = "modelium.sender"
"""Key of the `Sender` in a request's ASGI scope; absent for all but nodes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sender:
    """The node that a request comes from, and what it says of the client's request."""

    node: str
    hops: int = 1
    """How often it was forwarded, this time included."""
    priority: Priority | None = None
    client: str = ""
    """Whose request it is; empty: that was not said."""


def sender(scope: Scope) -> Sender | None:
    """Return the node that a request comes from; ``None``: it is no node's."""
    found: Sender | None = scope.get(SENDER)
    return found


def sent_by(node: str, headers: Headers) -> Sender:
    """Return what a request says that shows the secret of ``node``."""
    hops, named = header(headers, FORWARDED) or "", header(headers, PRIORITY)
    known = {priority.value: priority for priority in Priority}
    # What cannot be read may have come any way round.
    count = int(hops) if hops.isascii() and hops.isdecimal() and len(hops) < 4 else MOST_HOPS + 1
    client = header(headers, CLIENT) or ""
    return Sender(node=node, hops=count, priority=known.get(named or ""), client=client)


def marks(hops: int, priority: Priority | None, client: str) -> Headers:
    """Return the headers of a request that is forwarded for the ``hops``-th time."""
    found = [(FORWARDED, b"%d" % hops), (CLIENT, client.encode("latin-1", "replace"))]
    if priority is not None:
        found.append((PRIORITY, priority.value.encode()))
    return found
