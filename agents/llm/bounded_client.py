"""The HTTP client of an endpoint that may answer anything: what it takes in has bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import openai

ANSWER_BYTES = 1 << 20
"""Longest answer. The longest reply asked for, of 2,000 tokens, has a hundredth of this."""

REPLY_CHARACTERS = 20_000
"""Longest text, and longest arguments of a call, kept of one reply, in case the endpoint ignores
``max_tokens``."""

CALLS = 32
"""Most tool calls in one reply; small models repeat a call."""

NAME_CHARACTERS = 80
"""Longest name of a called tool; OpenAI allows 64."""

MOST_TOKENS = 1_000_000
"""Most that an endpoint can report of one prompt or reply: beyond every budget."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Follows no redirects and takes in no more of an answer than the brain can use.

    A redirect could make this process send a request to the gateway, or to another service that
    trusts it.
    """

    def __init__(self, **given: Any) -> None:
        """``given``: further arguments of the client."""
        plain = {"accept-encoding": "identity"}
        super().__init__(follow_redirects=False, headers=plain, **given)

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Return the whole answer; of a chat completion, what the brain uses of it.

        Raises:
            httpx.HTTPError: the answer is too long, encoded, or no chat completion.
        """
        answer = await super().send(request, stream=True, **options)
        try:
            content = await _content(answer)
        finally:
            await answer.aclose()
        if answer.is_success:
            # The libraries take seconds, on the event loop, for a megabyte of small values.
            content = json.dumps(_completion(content)).encode()
        headers = {"content-type": "application/json" if answer.is_success else "text/plain"}
        return type(answer)(answer.status_code, headers=headers, content=content, request=request)


async def _content(answer: Any) -> bytes:
    # A few bytes can decode to gigabytes.
    if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise httpx.DecodingError("the answer is encoded, although plain text was asked for")
    content = bytearray()
    async for part in answer.aiter_raw():
        content += part
        if len(content) > ANSWER_BYTES:
            raise httpx.DecodingError(f"the answer has over {ANSWER_BYTES} bytes")
    return bytes(content)


def _completion(content: bytes) -> dict[str, Any]:
    """Return the first choice and the usage of a chat completion, within the bounds."""
    try:
        document = json.loads(content)
        choice = document["choices"][0]
        message = choice["message"]
        kept = {
            "role": "assistant",
            "content": _text(message.get("content")),
            "tool_calls": _calls(message.get("tool_calls") or []),
        }
        finish = "length" if choice.get("finish_reason") == "length" else "stop"
        found = {"choices": [{"index": 0, "message": kept, "finish_reason": finish}]}
        return found | _usage(document.get("usage"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        said = content[:REPLY_CHARACTERS].decode(errors="replace")
        raise httpx.DecodingError(f"the answer is no chat completion: {said}") from exc


def _text(content: Any) -> str:
    """Return a message's text; some servers send it in parts."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(part for part in parts if isinstance(part, str))
    return content[:REPLY_CHARACTERS] if isinstance(content, str) else ""


def _calls(calls: Any) -> list[dict[str, Any]]:
    if len(calls) > CALLS:
        raise httpx.DecodingError(f"the answer has {len(calls)} tool calls; {CALLS} are accepted")
    return [_call(call, place) for place, call in enumerate(calls)]


def _call(call: Mapping[str, Any], place: int) -> dict[str, Any]:
    function = call["function"]
    name, given = function["name"], function.get("arguments") or ""
    if len(name) > NAME_CHARACTERS:
        raise httpx.DecodingError(f"the answer calls a tool with a name of {len(name)} characters")
    arguments = given if isinstance(given, str) else json.dumps(given)
    return {
        "id": str(call.get("id") or f"call-{place}"),
        "type": "function",
        "function": {"name": str(name), "arguments": arguments[:REPLY_CHARACTERS]},
    }


def _usage(usage: Any) -> dict[str, Any]:
    """Return the tokens, never negative; nothing where they are not both reported as integers."""
    counts = usage if isinstance(usage, dict) else {}
    prompt, reply = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if type(prompt) is not int or type(reply) is not int:
        return {}
    prompt, reply = (min(max(count, 0), MOST_TOKENS) for count in (prompt, reply))
    tokens = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
    return {"usage": tokens}
