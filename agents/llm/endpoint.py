"""The client of an OpenAI-compatible endpoint; it probes the endpoint's capabilities.

The LLM libraries are wrapped here: every failure is an `EndpointError` without secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import openai
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI
from langsmith import tracing_context
from pydantic import SecretStr

from agents.llm.bounded_client import REPLY_CHARACTERS, BoundedClient
from agents.llm.capabilities import NONE_SHOWN, Capabilities, Findings
from agents.llm.outbound import refuse_metadata

NO_KEY = "none"
"""Sent where there is no key: the client requires one and must not use another provider's."""

PROBE_TOKENS = 200
"""Enough for a model that reasons before it answers; others stop earlier."""

ERROR_CHARACTERS = 300

CHARACTERS_PER_TOKEN = 3
"""For endpoints that report no usage: fewer than in prose, so that budgets are kept."""

MOST_CHARACTERS_PER_TOKEN = 16
"""An endpoint that reports fewer tokens is not believed: the budget would never be spent."""

REFUSED = frozenset({400, 404, 405, 415, 422, 500, 501})
"""Statuses that servers return for an unknown parameter; llama.cpp returns 500."""

TOO_LONG = re.compile(
    r"context (length|size|window)|context_length_exceeded|max_model_len", re.IGNORECASE
)
"""In the message of a 400: vLLM and OpenAI say `maximum context length`, llama.cpp `size`. Where
the longest reply alone is beyond it, vLLM names the setting."""

PROBE = "Answer that you are ready."
PROBE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "ready": {"type": "string", "enum": ["yes"]},
        # What an endpoint may refuse in a strict tool: an optional value, a longest text.
        "note": {"type": "string", "maxLength": 20},
    },
    "required": ["ready"],
    "additionalProperties": False,
}


class EndpointError(Exception):
    """The endpoint did not answer with a chat completion."""

    def __init__(self, message: str, *, status: int | None = None, too_long: bool = False) -> None:
        """``status``: the HTTP status, if any. ``too_long``: the context cannot hold it all."""
        super().__init__(message)
        self.status = status
        self.too_long = too_long


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One tool call of a reply; ``arguments`` is ``None`` where they are not a JSON object."""

    id: str
    name: str
    arguments: Mapping[str, Any] | None
    raw: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One reply of the endpoint."""

    message: AIMessage
    text: str
    calls: tuple[ToolCall, ...]
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False
    """It ended at ``max_tokens``."""


class Endpoint:
    """One model at one endpoint. Not thread-safe: for one event loop."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None,
        capabilities: Capabilities | None = None,
        allowed_link_local: frozenset[str] = frozenset(),
    ) -> None:
        """Send nothing yet.

        ``capabilities``: if known; otherwise they are probed. ``allowed_link_local``: hosts that
        are asked although their addresses are link-local.
        """
        self.model = model
        self.base_url = without_credentials(base_url)
        self._secrets = [s for s in (api_key, urlsplit(base_url).password) if s]
        self._chat = ChatOpenAI(
            model=model,
            base_url=base_url,
            api_key=SecretStr(api_key or NO_KEY),
            temperature=0.0,
            max_retries=0,  # the circuit breaker and the next review are the retries
            stream_usage=False,
            # The decision's deadline bounds each call.
            timeout=None,
            # Its own client: the library's default is shared by all event loops of the process.
            http_async_client=BoundedClient(
                event_hooks={"request": [partial(refuse_metadata, allowed=allowed_link_local)]}
            ),
            openai_proxy=None,  # else OPENAI_PROXY is read, which cannot be combined with a client
        )
        self._found = Findings(known=capabilities)
        self._probing = asyncio.Lock()

    async def capabilities(self, *, now: float) -> Capabilities:
        """Return what the endpoint can do, found with two or three short questions.

        What they do not show is probed again after a while. ``now``: seconds that never go back.

        Raises:
            EndpointError: it does not answer; it is probed again the next time.
        """
        async with self._probing:
            found = self._found
            if found.known is None:
                found.known = await self._probe(NONE_SHOWN)
                found.postpone(now)
            elif found.are_due(now):
                found.postpone(now)  # first, as the decision's deadline may end the probe
                with contextlib.suppress(EndpointError):
                    found.known = await self._probe(found.known)
            return found.known

    async def ask(
        self,
        messages: Sequence[BaseMessage],
        *,
        max_tokens: int,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Mapping[str, Any] | None = None,
        strict: bool | None = None,
    ) -> Reply:
        """Send ``messages`` and return the reply.

        Args:
            messages: the conversation.
            max_tokens: of the reply.
            tools: specifications in OpenAI's form, without ``strict``; one of them must be called.
            schema: JSON schema that the reply must follow.
            strict: whether the tools are strict and one of them is called once; by default, where
                the endpoint accepts that.

        Raises:
            EndpointError: the endpoint did not return a chat completion.
        """
        options: dict[str, Any] = {"max_tokens": max_tokens}
        if schema is not None:
            # Not `strict`, which forbids length limits that small models need. Not as an option
            # of the client, which would raise on a truncated reply instead of returning it.
            form = {"name": "decision", "schema": dict(schema)}
            wanted = {"type": "json_schema", "json_schema": form}
            options["extra_body"] = {"response_format": wanted}
        chat: Any = self._chat
        if tools:
            if strict is None:
                strict = self._found.known is not None and self._found.known.strict
            held = {"parallel_tool_calls": False} if strict else {}
            given = [_strict(tool) if strict else tool for tool in tools]
            # Never one tool by its name: llama.cpp takes that for `auto`.
            chat = chat.bind_tools(given, tool_choice="required", **held)
        try:
            # Whatever the environment says, prompts are sent to the endpoint and nowhere else.
            with tracing_context(enabled=False):
                message = await chat.ainvoke(list(messages), **options)
            return _reply(message, messages)
        except openai.APIStatusError as exc:
            raise EndpointError(
                self._clean(f"HTTP {exc.status_code}: {exc.message}"),
                status=exc.status_code,
                too_long=exc.status_code == 400 and bool(TOO_LONG.search(exc.message)),
            ) from exc
        except Exception as exc:
            # The client raises TypeError and the like where a body is not a chat completion.
            # It hides what happened to a connection behind an error of its own.
            cause: BaseException = exc
            while isinstance(cause, openai.APIConnectionError) and cause.__cause__:
                cause = cause.__cause__
            raise EndpointError(self._clean(f"{type(cause).__name__}: {cause}")) from exc

    def redacted(self, text: str) -> str:
        """Return ``text`` without the endpoint's secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _clean(self, text: str) -> str:
        return self.redacted(" ".join(text.split()))[:ERROR_CHARACTERS]

    async def _probe(self, known: Capabilities) -> Capabilities:
        """Return ``known`` and what else the endpoint shows now."""
        schema = known.schema or await self._enforces_schema()
        if known.tools and known.strict:
            return replace(known, schema=schema)
        found = await self._calls_tools(schema=schema)
        return replace(found, tools=known.tools or found.tools)

    async def _enforces_schema(self) -> bool:
        try:
            reply = await self.ask(
                [HumanMessage(PROBE)], max_tokens=PROBE_TOKENS, schema=PROBE_SCHEMA
            )
        except EndpointError as exc:
            return _refusal(exc)
        return '"yes"' in reply.text

    async def _calls_tools(self, *, schema: bool) -> Capabilities:
        function = {"name": "ready", "description": PROBE, "parameters": dict(PROBE_SCHEMA)}
        tool = {"type": "function", "function": function}
        for strict in (True, False):
            try:
                reply = await self.ask(
                    [HumanMessage(PROBE)], max_tokens=PROBE_TOKENS, tools=[tool], strict=strict
                )
            except EndpointError as exc:
                _refusal(exc)
                continue
            called = any(call.name == "ready" for call in reply.calls)
            return Capabilities(schema=schema, tools=called, strict=called and strict)
        return Capabilities(schema=schema, tools=False)


def without_credentials(url: str) -> str:
    """Return ``url`` without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _strict(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {**tool, "function": {**tool["function"], "strict": True}}


def _refusal(error: EndpointError) -> bool:
    """Return False where the endpoint rejects the parameter; raise any other error."""
    if error.status in REFUSED:
        return False
    raise error


def _reply(message: AIMessage, asked: Sequence[BaseMessage]) -> Reply:
    calls = [
        ToolCall(id=call["id"] or f"call-{i}", name=call["name"], arguments=call["args"])
        for i, call in enumerate(message.tool_calls)
    ]
    calls += [
        ToolCall(
            id=call["id"] or f"bad-{i}",
            name=call["name"] or "",
            arguments=None,
            raw=(call["args"] or "")[:ERROR_CHARACTERS],
        )
        for i, call in enumerate(message.invalid_tool_calls)
    ]
    usage = message.usage_metadata
    return Reply(
        message=message,
        text=message.text[:REPLY_CHARACTERS],
        calls=tuple(calls),
        prompt_tokens=_tokens(asked, usage["input_tokens"] if usage else None),
        completion_tokens=_tokens([message], usage["output_tokens"] if usage else None),
        cut=message.response_metadata.get("finish_reason") == "length",
    )


def _tokens(messages: Sequence[BaseMessage], reported: int | None) -> int:
    characters = sum(map(_characters, messages))
    if reported is None:
        return characters // CHARACTERS_PER_TOKEN
    return max(reported, characters // MOST_CHARACTERS_PER_TOKEN)


def _characters(message: BaseMessage) -> int:
    if not isinstance(message, AIMessage):
        return len(message.text)
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    return len(message.text) + sum(len(str(call["args"] or "")) for call in calls)
