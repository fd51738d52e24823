"""A scripted OpenAI-compatible endpoint over real sockets.

A player is called with the JSON of each request, except probes, and returns the answer: a dict is
a message (``content``, ``calls`` or both), an `Answer` is sent unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.fakes.serving import served

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A raw HTTP answer."""

    status: int = 200
    body: bytes = b""
    after_s: float = 0.0
    cut: bool = False
    """Close the connection in the middle of the body."""
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """More of them."""


Player = Callable[[Body], Mapping[str, Any] | Answer]


def says(content: Any) -> dict[str, Any]:
    """Return a message with text; any other value than a string is sent as JSON."""
    return {"content": content if isinstance(content, str) else json.dumps(content)}


def calls(name: str, arguments: Any = None) -> dict[str, Any]:
    """Return a message with one tool call; arguments in a string are sent unchanged."""
    return {"calls": [(name, {} if arguments is None else arguments)]}


def is_probe(body: Body) -> bool:
    """Return whether ``body`` only probes the endpoint's capabilities."""
    return len(body["messages"]) == 1


def probe_answer(body: Body, *, tools: bool, schema: bool) -> Mapping[str, Any] | Answer:
    """Return the answer to a probe of an endpoint with these capabilities."""
    if body.get("tools"):
        return calls("ready", {"ready": "yes"}) if tools else says("I am ready.")
    if schema:
        return says({"ready": "yes"})
    return Answer(status=400, body=b'{"error":{"message":"response_format is not supported"}}')


class Endpoint:
    """Records requests and probes separately."""

    def __init__(self, player: Player, *, tools: bool = True, schema: bool = True) -> None:
        self.player = player
        self.tools = tools
        self.schema = schema
        self.seen: list[Body] = []
        self.probes: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw, more = b"", True
        while more:
            message = await receive()
            raw += message.get("body", b"")
            more = message.get("more_body", False)
        body = json.loads(raw)
        self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        if is_probe(body):
            self.probes.append(body)
            answer = probe_answer(body, tools=self.tools, schema=self.schema)
        else:
            self.seen.append(body)
            answer = self.player(body)
        await _send(send, answer if isinstance(answer, Answer) else completion(body, answer))


def completion(body: Body, message: Mapping[str, Any]) -> Answer:
    """Return a chat completion with roughly estimated token counts."""
    sent: dict[str, Any] = {"role": "assistant", "content": message.get("content")}
    if "calls" in message:
        sent["tool_calls"] = [
            {
                "id": f"call-{place}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": given if isinstance(given, str) else json.dumps(given),
                },
            }
            for place, (name, given) in enumerate(message["calls"])
        ]
    prompt, reply = len(json.dumps(body["messages"])) // 4, len(json.dumps(sent)) // 4
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": sent, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": reply,
            "total_tokens": prompt + reply,
        },
    }
    return Answer(body=json.dumps(document).encode())


async def _send(send: Any, answer: Answer) -> None:
    await asyncio.sleep(answer.after_s)
    length = len(answer.body) * (2 if answer.cut else 1)
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % length)]
    headers += answer.headers
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": answer.cut})


@contextlib.asynccontextmanager
async def endpoint(
    player: Player, *, tools: bool = True, schema: bool = True
) -> AsyncIterator[Endpoint]:
    """Serve on a free port of loopback."""
    fake = Endpoint(player, tools=tools, schema=schema)
    async with served(fake) as fake.port:
        yield fake
