"""A scripted OpenAI-compatible endpoint over real sockets: plays well, badly or not at all.

A player is called with each request's JSON (probes are answered for it) and returns what is sent:
a dict is a message (``content`` and/or ``calls``), an `Answer` anything else.
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
    """What is sent where it is no ordinary message."""

    status: int = 200
    body: bytes = b""
    after_s: float = 0.0
    cut: bool = False
    """Break off in the middle of the body."""
    content_type: bytes = b"application/json"


Player = Callable[[Body], Mapping[str, Any] | Answer]


def says(content: Any) -> dict[str, Any]:
    """A message of text; anything but a text is sent as JSON."""
    return {"content": content if isinstance(content, str) else json.dumps(content)}


def calls(name: str, arguments: Any = None) -> dict[str, Any]:
    """A message with one tool call; a text as arguments is sent as it is."""
    return {"calls": [(name, {} if arguments is None else arguments)]}


def is_probe(body: Body) -> bool:
    """Whether the agent only finds out what the endpoint can do."""
    return len(body["messages"]) == 1


def probe_answer(body: Body, *, tools: bool, schema: bool) -> Mapping[str, Any] | Answer:
    """The answer of an endpoint with these abilities to a probe."""
    if body.get("tools"):
        return calls("ready", {"ready": "yes"}) if tools else says("I am ready.")
    if schema:
        return says({"ready": "yes"})
    return Answer(status=400, body=b'{"error":{"message":"response_format is not supported"}}')


class Endpoint:
    """Serves until it is closed; remembers the requests that were no probes."""

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
    """A chat completion, its tokens counted as a tokenizer roughly would."""
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
