"""Complete answers in one write to the client's socket, where the server allows it.

With `gateway.protocol` the only module that uses uvicorn's internals; pyproject.toml bounds
uvicorn's version for them.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from modelium.gateway.asgi import Headers, Send, respond


async def respond_in_one_write(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a complete answer, as `asgi.respond` does, whose headers a parser has validated.

    Not for answers to HEAD or with a status that has no body.

    In ASGI the head and the body are two messages, which uvicorn writes separately after
    validating each header: a fifth of the cost of a request with a small answer.
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
