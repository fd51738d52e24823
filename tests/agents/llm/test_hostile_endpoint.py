"""An endpoint that attacks whoever asks it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from agents.llm import bounded_client
from agents.llm.bounded_client import (
    ANSWER_BYTES,
    CALLS,
    MOST_TOKENS,
    NAME_CHARACTERS,
    REPLY_CHARACTERS,
)
from agents.llm.capabilities import Capabilities
from agents.llm.endpoint import Endpoint, EndpointError, Reply, _reply
from agents.llm.transcript import Transcript
from modelium import config
from modelium.clock import SystemClock
from modelium.gateway import Gateway
from modelium.metrics import Metrics
from modelium.routing.switchboard import Switchboard
from modelium.traffic import TrafficBook
from tests.fakes.fleets import fleet, loaded
from tests.fakes.llm import Answer, endpoint
from tests.modelium.gateway.conftest import Listener, MemoryOperations

ASKED = [HumanMessage("who"), HumanMessage("are you")]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def body(message: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "message": message}], **more}).encode()


async def answered(answer: Answer | bytes) -> Reply:
    given = answer if isinstance(answer, Answer) else Answer(body=answer)
    async with endpoint(lambda _: given) as fake:
        able = Capabilities(schema=True, tools=True)
        made = Endpoint(base_url=fake.base_url, model="m", api_key="secret", capabilities=able)
        try:
            return await made.ask(ASKED, max_tokens=9)
        finally:
            assert [headers["accept-encoding"] for headers in fake.headers] == ["identity"]


async def refused(answer: Answer | bytes) -> EndpointError:
    with pytest.raises(EndpointError) as error:
        await answered(answer)
    return error.value


async def test_a_redirect_to_the_gateway_gives_no_order(tmp_path: Any) -> None:
    victim = loaded("victim", "n/g0")
    orders, clock, metrics = MemoryOperations(at=fleet(victim)), SystemClock(), Metrics()
    board = Switchboard(
        traffic=TrafficBook(clock=clock),
        listener=Listener(),
        metrics=metrics,
        max_waiting_per_model=1,
        max_waiting=1,
        max_wait_s=1.0,
    )
    gateway = Gateway(
        config=config.Gateway(port=0),
        ingest=config.Ingest(),
        incoming=tmp_path,
        switchboard=board,
        operations=orders,
        metrics=metrics,
        clock=clock,
        links={},
        shutdown_grace_s=1.0,
    )
    async with gateway:
        to = f"{gateway.url}/api/v1/models/victim/unload"
        error = await refused(Answer(status=307, headers=((b"location", to.encode()),)))
    assert error.status == 307
    assert orders.kept == {}


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br"])
async def test_an_encoded_answer_is_refused_before_it_is_unpacked(encoding: bytes) -> None:
    packed = gzip.compress(body({"content": "x"}))
    error = await refused(Answer(body=packed, headers=((b"content-encoding", encoding),)))
    assert str(error) == ("DecodingError: the answer is encoded, although plain text was asked for")


async def test_identity_is_no_encoding() -> None:
    plain = Answer(body=body({"content": "x"}), headers=((b"content-encoding", b" Identity "),))
    assert (await answered(plain)).text == "x"


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_has_a_longest_length(status: int) -> None:
    whole = body({"content": "x"}).ljust(ANSWER_BYTES)
    if status == 200:
        assert (await answered(whole)).text == "x"
    error = await refused(Answer(status=status, body=whole + b" "))
    assert str(error) == f"DecodingError: the answer has over {ANSWER_BYTES} bytes"


async def test_only_what_the_brain_uses_is_handed_to_the_libraries() -> None:
    sent = {
        "role": "user",
        "content": "y" * (REPLY_CHARACTERS + 1),
        "tool_calls": [
            {"function": {"name": "a", "arguments": '{"b": 1}', "more": [[]]}, "id": "i"},
            {"function": {"name": "c", "arguments": {"d": 2}}},
            {"function": {"name": "e"}, "id": None},
            {"function": {"name": "f", "arguments": "[" * (REPLY_CHARACTERS + 1)}},
        ],
        "more": [[]] * 9,
    }
    raw = body(sent, usage={**USAGE, "more": [[]]}, more=[[]] * 9)
    found = bounded_client._completion(raw)
    assert found == {
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "y" * REPLY_CHARACTERS,
                    "tool_calls": [
                        _call("i", "a", '{"b": 1}'),
                        _call("call-1", "c", '{"d": 2}'),
                        _call("call-2", "e", ""),
                        _call("call-3", "f", "[" * REPLY_CHARACTERS),
                    ],
                },
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": id, "type": "function", "function": function}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"text": 1}, "b", {"text": "c"}], "ac"),
        (None, ""),
        (7, ""),
    ],
)
async def test_a_text_may_come_in_parts_or_be_missing(content: Any, text: str) -> None:
    assert (await answered(body({"content": content}))).text == text


async def test_a_reply_has_a_bound_of_calls_and_of_their_names() -> None:
    def called(times: int, name: str) -> bytes:
        function = {"name": name, "arguments": "{}"}
        return body({"tool_calls": [{"id": "1", "function": function}] * times})

    reply = await answered(called(CALLS, "n" * NAME_CHARACTERS))
    assert [call.name for call in reply.calls] == ["n" * NAME_CHARACTERS] * CALLS
    many = await refused(called(CALLS + 1, "n"))
    assert str(many) == "DecodingError: the answer has 33 tool calls; 32 are accepted"
    long = await refused(called(1, "n" * (NAME_CHARACTERS + 1)))
    assert str(long) == "DecodingError: the answer calls a tool with a name of 81 characters"


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b'{"choices": []}', b"[" * 9000, b"\xff"])
async def test_what_is_no_completion_is_an_error(raw: bytes) -> None:
    assert str(await refused(raw)).startswith("DecodingError: the answer is no chat completion:")


@pytest.mark.parametrize(
    ("prompt", "reply", "counted"),
    [
        (11, 7, (11, 7)),
        (-(10**9), -1, (0, 1)),
        (0, 0, (0, 1)),
        (10**30, 10**9, (MOST_TOKENS, MOST_TOKENS)),
        (True, 7, (3, 5)),
        ("11", 7, (3, 5)),
        (1.5, 7, (3, 5)),
    ],
)
async def test_tokens_that_cannot_be_are_not_believed(
    prompt: Any, reply: Any, counted: tuple[int, int]
) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": 0}
    found = await answered(body({"content": "x" * 16}, usage=usage))
    assert (found.prompt_tokens, found.completion_tokens) == counted


async def test_arguments_of_calls_count_as_tokens() -> None:
    message = AIMessage("x" * 6, tool_calls=[{"name": "a", "args": {"b": 1}, "id": "1"}])
    assert _reply(message, [message]).completion_tokens == (6 + len("{'b': 1}")) // 3


def test_the_name_of_a_tool_is_recorded_without_secrets() -> None:
    transcript = Transcript(redacted=lambda text: text.replace("secret", "***"))
    transcript.add(ToolMessage("x", tool_call_id="1", name="a secret tool"))
    transcript.add(ToolMessage("x", tool_call_id="1"))
    assert [m["tool"] for m in transcript.record()["messages"]] == ["a *** tool", ""]
