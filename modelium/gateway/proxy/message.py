"""A request as it is sent to an upstream, and which headers pass (no I/O here)."""

from __future__ import annotations

from modelium.config.hosts import authority
from modelium.gateway.asgi import Headers
from modelium.gateway.forwarding import MARKS
from modelium.models import Upstream

COPIED_BYTES = 64 * 1024
"""Up to this size, one write of head and body costs less than two."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
CREDENTIALS = frozenset({b"authorization", b"cookie", b"api-key", b"x-api-key"})
"""What a client shows to the gateway is no business of the engines."""

NOT_SENT = HOP_BY_HOP | CREDENTIALS | MARKS | {b"host", b"content-length", b"expect"}
NOT_RETURNED = HOP_BY_HOP | MARKS | {b"date", b"server", b"set-cookie"}


def request_of(
    upstream: Upstream,
    method: str,
    target: str,
    headers: Headers,
    body: bytes,
    marks: Headers | None = None,
) -> tuple[bytes, ...]:
    """Return a request in wire format; a large body is a part of its own and not copied.

    ``marks``: what the gateway itself tells another one.
    """
    host = authority(upstream.host, upstream.port)
    parts = [f"{method} {upstream.prefix}{target} HTTP/1.1\r\nhost: {host}\r\n".encode("latin-1")]
    encodes = False
    for name, value in end_to_end(headers, NOT_SENT):
        encodes = encodes or name == b"accept-encoding"
        parts += (name, b": ", value, b"\r\n")
    for name, value in marks or ():
        parts += (name, b": ", value, b"\r\n")
    if upstream.api_key is not None:
        parts.append(f"authorization: Bearer {upstream.api_key}\r\n".encode("latin-1"))
    if not encodes:
        # Some engines compress unless told otherwise; this client did not ask for it.
        parts.append(b"accept-encoding: identity\r\n")
    if body or method in ("POST", "PUT", "PATCH"):
        parts.append(b"content-length: %d\r\n" % len(body))
    if len(body) > COPIED_BYTES:
        return b"".join((*parts, b"\r\n")), body
    parts += (b"\r\n", body)
    return (b"".join(parts),)


def end_to_end(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    """Return ``headers`` (lower case) without ``dropped`` and without what Connection names."""
    named: list[bytes] = []
    found = []
    for pair in headers:
        name = pair[0]
        if name not in dropped:
            found.append(pair)
        elif name == b"connection":
            named += (part.strip() for part in pair[1].lower().split(b","))
    return [pair for pair in found if pair[0] not in named] if named else found
