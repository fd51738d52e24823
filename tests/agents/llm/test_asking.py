"""What is handed to the LLM library, and what its errors become."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langsmith.run_helpers import get_tracing_context

from agents.llm.capabilities import FIRST_PAUSE_S, LONGEST_PAUSE_S, Capabilities, Findings
from agents.llm.endpoint import (
    PROBE_SCHEMA,
    PROBE_TOKENS,
    Endpoint,
    EndpointError,
    without_credentials,
)

ASKED = [HumanMessage("hi")]
TOOL = {"type": "function", "function": {"name": "a"}}
STRICT = {"type": "function", "function": {"name": "a", "strict": True}}


class Chat:
    """The library's client, with the outcomes that the test sets."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.bound: list[tuple[Any, Any]] = []
        self.options: list[dict[str, Any]] = []
        self.more: list[dict[str, Any]] = []
        self.traced: list[Any] = []

    def bind_tools(self, tools: Any, *, tool_choice: Any, **more: Any) -> Chat:
        self.bound.append((tools, tool_choice))
        self.more.append(more)
        return self

    async def ainvoke(self, messages: Any, **options: Any) -> Any:
        self.options.append(options)
        self.traced.append(get_tracing_context()["enabled"])
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def endpoint(*outcomes: Any, **given: Any) -> tuple[Endpoint, Chat]:
    made = Endpoint(**{"base_url": "http://u:pass@h:1/v1", "model": "m", "api_key": "key", **given})
    chat: Any = Chat(*outcomes)
    made._chat = chat
    return made, chat


def refusal(status: int, said: str = "x") -> openai.APIStatusError:
    response = httpx.Response(status, request=httpx.Request("POST", "http://h"))
    return openai.APIStatusError(said, response=response, body=None)


def called(name: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": {}, "id": "1"}])


def test_the_client_neither_tries_again_nor_guesses() -> None:
    chat = Endpoint(base_url="http://h/v1", model="m", api_key=None)._chat
    assert (chat.max_retries, chat.temperature, chat.stream_usage) == (0, 0.0, False)
    assert chat.openai_api_key is not None


async def test_a_schema_and_tools_are_sent_where_they_are_given() -> None:
    made, chat = endpoint(*[AIMessage("ok")] * 3)
    await made.ask(ASKED, max_tokens=7)
    await made.ask(ASKED, max_tokens=7, schema={"type": "object"})
    await made.ask(ASKED, max_tokens=7, tools=[TOOL])
    form = {"name": "decision", "schema": {"type": "object"}}
    response = {"type": "json_schema", "json_schema": form}
    assert chat.options == [
        {"max_tokens": 7},
        {"max_tokens": 7, "extra_body": {"response_format": response}},
        {"max_tokens": 7},
    ]
    assert chat.bound == [([TOOL], "required")]
    assert chat.traced == [False] * 3


@pytest.mark.parametrize(
    ("outcome", "said", "status"),
    [
        (refusal(503, "the  key\nof pass"), "HTTP 503: the *** of ***", 503),
        (refusal(400, "x" * 400), "HTTP 400: " + "x" * 290, 400),
        (ValueError("key"), "ValueError: ***", None),
    ],
)
async def test_an_error_is_short_and_without_secrets(
    outcome: Exception, said: str, status: int | None
) -> None:
    made, _ = endpoint(outcome)
    with pytest.raises(EndpointError) as error:
        await made.ask(ASKED, max_tokens=1)
    assert (str(error.value), error.value.status) == (said, status)


@pytest.mark.parametrize(
    ("schema", "tools", "able"),
    [
        (AIMessage('{"ready": "yes"}'), [called("ready")], (True, True, True)),
        (AIMessage("yes"), [called("other")], (False, False, False)),
        (refusal(400), [AIMessage("yes")], (False, False, False)),
        (AIMessage('"yes"'), [refusal(400), called("ready")], (True, True, False)),
        (refusal(500), [refusal(422), refusal(404)], (False, False, False)),
    ],
)
async def test_what_it_can_do_is_found_out_once(schema: Any, tools: Any, able: Any) -> None:
    made, chat = endpoint(schema, *tools)
    for _ in range(2):
        assert await made.capabilities(now=0.0) == Capabilities(
            schema=able[0], tools=able[1], strict=able[2]
        )
    assert [options["max_tokens"] for options in chat.options] == [PROBE_TOKENS] * (1 + len(tools))
    form = chat.options[0]["extra_body"]["response_format"]["json_schema"]
    assert form["schema"] == PROBE_SCHEMA
    asked = [tool["function"] for (tool,), _ in chat.bound]
    assert [tool.get("strict") for tool in asked] == [True, None][: len(tools)]
    assert {choice for _, choice in chat.bound} == {"required"}
    assert chat.more == [{"parallel_tool_calls": False}, {}][: len(tools)]
    for tool in asked:
        assert (tool["name"], tool["parameters"]) == ("ready", PROBE_SCHEMA)


@pytest.mark.parametrize(
    ("able", "sent"),
    [
        (Capabilities(tools=True, schema=False, strict=True), STRICT),
        (Capabilities(tools=True, schema=False), TOOL),
        (None, TOOL),
    ],
)
async def test_tools_are_strict_where_the_endpoint_takes_that(
    able: Capabilities | None, sent: Any
) -> None:
    made, chat = endpoint(AIMessage(""), capabilities=able)
    await made.ask(ASKED, max_tokens=1, tools=[TOOL])
    assert chat.bound == [([sent], "required")]
    assert chat.more == [{"parallel_tool_calls": False} if sent is STRICT else {}]
    assert "strict" not in TOOL["function"]


@pytest.mark.parametrize(
    ("status", "said", "too_long"),
    [
        (400, "This model's maximum context length is 2048 tokens. However, …", True),
        (400, "the request exceeds the available context size, try increasing it", True),
        (400, "Error code: context_length_exceeded", True),
        (400, "max_tokens=2000 cannot be greater than max_model_len=1024.", True),
        (400, "no such context: 7", False),
        (500, "the request exceeds the available context size", False),
    ],
)
async def test_a_conversation_beyond_the_context_is_recognized(
    status: int, said: str, too_long: bool
) -> None:
    made, _ = endpoint(refusal(status, said))
    with pytest.raises(EndpointError) as error:
        await made.ask(ASKED, max_tokens=1)
    assert error.value.too_long is too_long


@pytest.mark.parametrize(("finish", "cut"), [("length", True), ("stop", False), (None, False)])
async def test_a_reply_at_its_longest_length_is_cut(finish: str | None, cut: bool) -> None:
    made, _ = endpoint(AIMessage("x", response_metadata={"finish_reason": finish}))
    assert (await made.ask(ASKED, max_tokens=1)).cut is cut


async def test_an_endpoint_that_is_down_is_probed_again() -> None:
    made, _ = endpoint(
        refusal(503),
        AIMessage('"yes"'),
        refusal(401),
        AIMessage('"yes"'),
        called("ready"),
    )
    for _ in range(2):
        with pytest.raises(EndpointError):
            await made.capabilities(now=0.0)
    assert await made.capabilities(now=0.0) == Capabilities(schema=True, tools=True, strict=True)


@pytest.mark.parametrize(
    ("before", "again", "able"),
    [
        # One bad reply, and the right ones.
        (
            [AIMessage("oh"), AIMessage("no")],
            [AIMessage('"yes"'), called("ready")],
            (True, True, True),
        ),
        ([AIMessage("oh"), called("ready")], [AIMessage('"yes"')], (True, True, True)),
        ([AIMessage('"yes"'), AIMessage("no")], [called("ready")], (True, True, True)),
        # What was shown stands, whatever comes then.
        (
            [AIMessage("oh"), refusal(400), called("ready")],
            [AIMessage("oh"), AIMessage("no")],
            (False, True, False),
        ),
        ([AIMessage('"yes"'), AIMessage("no")], [refusal(503)], (True, False, False)),
        ([AIMessage("oh"), called("ready")], [refusal(401)], (False, True, True)),
    ],
)
async def test_what_was_not_shown_is_probed_again_after_a_pause(
    before: Any, again: Any, able: Any
) -> None:
    made, chat = endpoint(*before, *again)
    first = await made.capabilities(now=100.0)
    assert await made.capabilities(now=100.0 + FIRST_PAUSE_S - 1) == first
    assert len(chat.outcomes) == len(again)
    found = Capabilities(schema=able[0], tools=able[1], strict=able[2])
    for later in (0.0, 2 * FIRST_PAUSE_S - 1):
        assert await made.capabilities(now=100.0 + FIRST_PAUSE_S + later) == found
    assert len(chat.options) == len(before) + len(again)


async def test_what_is_told_of_an_endpoint_is_not_probed() -> None:
    able = Capabilities(schema=False, tools=False)
    made, _ = endpoint(capabilities=able)
    assert await made.capabilities(now=1e9) == able


def test_the_pause_between_probes_doubles_up_to_a_day() -> None:
    found = Findings()
    assert not found.are_due(0.0), "nothing is known that could be added to"
    found.known = Capabilities(schema=True, tools=True)
    now, pauses = 0.0, []
    for _ in range(9):
        found.postpone(now)
        pauses.append(next(s for s in range(600, 90_000, 600) if found.are_due(now + s)))
        now += pauses[-1]
    assert pauses == [600, 1200, 2400, 4800, 9600, 19200, 38400, 76800, LONGEST_PAUSE_S]
    found.known = Capabilities(schema=True, tools=True, strict=True)
    assert not found.are_due(1e9)


def test_credentials_in_the_address_are_secrets() -> None:
    made, _ = endpoint()
    assert made.base_url == "http://h:1/v1"
    assert made.redacted("key pass m") == "*** *** m"
    bare, _ = endpoint(base_url="http://h", api_key=None)
    assert bare.redacted("key pass") == "key pass"
    assert without_credentials("https://a:b@c@h/x?y#z") == "https://h/x?y#z"
    assert without_credentials("http://h:1") == "http://h:1"
