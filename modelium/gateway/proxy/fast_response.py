"""Whole answers in one write to the client's socket, where the server lets us."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from modelium.gateway.asgi import Headers, Send, respond


async def respond_at_once(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Do as `asgi.respond`, for headers that a parser has already found valid.

    Not for answers to HEAD, nor for statuses that have no body.

    ASGI has the head and the body sent as two messages, which uvicorn writes one by one, each
    header being checked anew: for small answers that is a fifth of what a request costs.
    """
    cycle = getattr(send, "__self__", None)
    if (
        not isinstance(cycle, RequestResponseCycle)
        or cycle.response_started
        or cycle.disconnected
        or cycle.flow.write_paused
    ):
        await respond(send, status, body, headers)
        return
    parts = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        parts += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        parts.append(b"connection: close\r\n")
    parts += (b"content-length: %d\r\n\r\n" % len(body), body)
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"".join(parts))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
