"""The HTTP APIs of a fake engine in this process, over real sockets: OpenAI, KServe and an echo.

The ``x-do`` header of a request selects the answer:

- ``hold``: only after `Upstream.release` is set
- ``error`` / ``refuse``: a 500 / 400 with the engine's own message
- ``too-long``: a 400, as vLLM's for a request that exceeds its context
- ``empty``: a 204
- ``cut``: the connection is closed in the middle of the answer
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from modelium.models import Upstream as Address
from tests.fakes.serving import served

STREAMED = 20
"""Default number of chunks in a streamed chat answer; the header ``x-chunks`` overrides it."""

CONTEXT = 8192
TOO_LONG = {
    "message": f"This model's maximum context length is {CONTEXT} tokens. However, your prompt …",
    "type": "BadRequestError",
    "code": 400,
}

ENGINE_ERROR = {"object": "error", "message": "the engine's own words", "code": 500}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A received request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Upstream:
    """The ASGI application; records all requests."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.release = asyncio.Event()
        self.arrived = asyncio.Event()
        """Set when a request arrives."""
        self.left = asyncio.Event()
        """Set when a client closes its connection before its answer is complete."""
        self.port = 0

    def address(
        self, name: str, *apis: str, prefix: str = "", api_key: str | None = None
    ) -> Address:
        """Return its address for the switchboard."""
        return Address(
            host="127.0.0.1",
            port=self.port,
            prefix=prefix,
            served_name=name,
            apis=frozenset(apis or ("openai",)),
            api_key=api_key,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        seen = await self._read(scope, receive)
        do = seen.headers.get("x-do", "")
        watch = asyncio.create_task(self._watch(receive))
        try:
            if do == "hold":
                await self.release.wait()
            await self._answer(seen, do, send)
        finally:
            watch.cancel()

    async def _read(self, scope: Any, receive: Any) -> Seen:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        query = scope["query_string"].decode()
        seen = Seen(
            method=scope["method"],
            target=scope["raw_path"].decode() + (f"?{query}" if query else ""),
            headers={k.decode(): v.decode() for k, v in scope["headers"]},
            body=body,
        )
        self.seen.append(seen)
        self.arrived.set()
        return seen

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()

    async def _answer(self, seen: Seen, do: str, send: Any) -> None:
        path = seen.target.partition("?")[0]
        if do in ("error", "refuse"):
            await _json(send, 500 if do == "error" else 400, ENGINE_ERROR)
        elif do == "too-long":
            await _json(send, 400, {"error": TOO_LONG})
        elif do == "empty":
            await _start(send, 204, [])
            await send({"type": "http.response.body", "body": b""})
        elif path == "/v1/chat/completions" and seen.json.get("stream"):
            await self._stream(seen, send, cut=do == "cut")
        elif do == "cut":
            await _start(send, 200, [(b"content-length", b"100")])
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        elif path == "/v1/chat/completions":
            await _json(send, 200, _chat(seen.json["model"], "hello"))
        elif path == "/v1/embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            answer = {"object": "list", "model": seen.json["model"], "data": [vector]}
            await _json(send, 200, {**answer, "usage": usage})
        elif path.startswith("/v2/models/") and path.endswith("/infer"):
            await _infer(seen, send)
        elif path.startswith("/v2/models/"):
            name = path.split("/")[3]
            await _json(send, 200, {"name": name, "platform": "fake", "inputs": [], "outputs": []})
        else:
            echo = {"method": seen.method, "target": seen.target, "headers": seen.headers}
            await _json(send, 200, {**echo, "body": seen.body.decode("latin-1")})

    async def _stream(self, seen: Seen, send: Any, *, cut: bool) -> None:
        await _start(send, 200, [(b"content-type", b"text/event-stream; charset=utf-8")])
        for index in range(int(seen.headers.get("x-chunks", STREAMED))):
            if cut and index == 3:
                return
            delta = {"index": 0, "delta": {"content": f"{index} "}}
            event = {**_chat(seen.json["model"], ""), "object": "chat.completion.chunk"}
            event["choices"] = [delta]
            del event["usage"]  # engines send it only on request
            await _event(send, json.dumps(event))
            if index == 0 and "x-then" in seen.headers:
                await self.release.wait()
        await _event(send, "[DONE]")
        await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """Serve on a free loopback port."""
    fake = Upstream()
    async with served(fake, grace_s=1) as fake.port:
        try:
            yield fake
        finally:
            fake.release.set()


def _chat(model: str, content: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


async def _infer(seen: Seen, send: Any) -> None:
    """Answer KServe v2 inference with its own inputs, in the binary form of the request."""
    length = int(seen.headers.get("inference-header-content-length", len(seen.body)))
    head, tail = json.loads(seen.body[:length]), seen.body[length:]
    outputs = [{**one, "name": one["name"].replace("IN", "OUT")} for one in head["inputs"]]
    answer = {"model_name": seen.target.split("/")[3], "model_version": "1", "outputs": outputs}
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/octet-stream")]
    if tail:
        headers.append((b"inference-header-content-length", str(len(body)).encode()))
    await _start(send, 200, headers)
    await send({"type": "http.response.body", "body": body + tail})


async def _json(send: Any, status: int, content: Any) -> None:
    body = json.dumps(content).encode()
    length = (b"content-length", str(len(body)).encode())
    await _start(send, status, [(b"content-type", b"application/json"), length])
    await send({"type": "http.response.body", "body": body})


async def _start(send: Any, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"x-engine", b"fake"), (b"keep-alive", b"timeout=5")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _event(send: Any, data: str) -> None:
    body = f"data: {data}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})
