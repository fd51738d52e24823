"""What is sent for an answer, message by message; and what a body takes while it is held."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from modelium.errors import InputError, Unavailable
from modelium.gateway.problems import HttpProblem
from modelium.gateway.proxy.connection import Interrupted
from modelium.gateway.proxy.fast_response import respond_in_one_write
from modelium.gateway.proxy.held import RETRY_AFTER_S, HeldBytes
from modelium.gateway.proxy.names import ModelReference, Names
from modelium.gateway.proxy.reply import ERROR_BYTES, CommentedAdmission, EngineFailed, Reply
from modelium.gateway.proxy.usage import MOST_TEXT, TAIL_BYTES, Usage, estimated_tokens
from modelium.traffic.request_log import LoggedRequest
from tests.modelium.gateway.conftest import until
from tests.modelium.gateway.wire import Line

EVENTS = (b"content-type", b"text/event-stream")


class Engine:
    """An answer of an engine, in these parts; the last one may be an error."""

    def __init__(self, *parts: Any, status: int = 200, events: bool = False) -> None:
        self.parts = list(parts)
        self.status = status
        self.headers = [(b"content-length", b"9"), (b"x", b"1"), *([EVENTS] if events else [])]
        self.is_event_stream = events
        self.is_complete = not events and len(parts) == 1 and isinstance(parts[0], bytes)

    async def chunk(self) -> tuple[bytes, bool]:
        part = self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part, bool(self.parts)


class Client:
    """Receives the messages of a reply."""

    def __init__(self, path: str = "/v1/x") -> None:
        self.got: list[Any] = []
        self.usage = Usage(at=1.0)
        self.reply = Reply(path=path, send=self._send, usage=self.usage)

    async def _send(self, message: Any) -> None:
        self.got.append(message)

    @property
    def starts(self) -> list[tuple[int, list[Any]]]:
        return [(m["status"], m["headers"]) for m in self.got if m["type"].endswith("start")]

    @property
    def bodies(self) -> list[tuple[bytes, bool]]:
        return [
            (m["body"], m.get("more_body", False)) for m in self.got if m["type"].endswith("body")
        ]

    async def forward(self, engine: Any) -> bool:
        """Whether the engine has failed."""
        try:
            await self.reply.forward(engine, "m")
        except EngineFailed:
            return True
        return False


USAGE = b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'


@pytest.mark.parametrize(("status", "failed"), [(200, False), (499, False), (500, True)])
async def test_a_complete_answer_is_sent_at_once(status: int, failed: bool) -> None:
    client = Client()
    assert await client.forward(Engine(USAGE, status=status)) is failed
    assert client.starts == [(status, [(b"x", b"1"), (b"content-length", b"%d" % len(USAGE))])]
    assert client.bodies == [(USAGE, False)]
    assert (client.usage.prompt_tokens, client.usage.generated_tokens) == (3, 4)


async def test_an_answer_in_parts_is_sent_as_it_comes() -> None:
    client = Client()
    assert not await client.forward(Engine(b"a", b"", b"b"))
    assert client.starts == [(200, [(b"content-length", b"9"), (b"x", b"1")])]
    assert client.bodies == [(b"a", True), (b"", True), (b"b", False)]
    assert client.usage.generated_tokens is None
    streamed = Client()
    assert not await streamed.forward(Engine(b"data: {1}\n\n" * 2, b"data: {2}", events=True))
    assert streamed.usage.generated_tokens == 3
    bare = Reply(path="/", send=client._send)
    await bare.forward(Engine(b"a"), "m")  # type: ignore[arg-type]
    await bare.forward(Engine(b"a", b"b"), "m")  # type: ignore[arg-type]


COMMENTED = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


async def test_after_comments_a_stream_goes_on() -> None:
    client = Client()
    await client.reply.comment("one")
    await client.reply.comment("two")
    assert not await client.forward(Engine(b"data: {1}\n\n", events=True))
    assert client.starts == [(200, COMMENTED)]
    assert client.bodies == [(b": one\n\n", True), (b": two\n\n", True), (b"data: {1}\n\n", False)]


@pytest.mark.parametrize(
    ("engine", "failed", "sent"),
    [
        (Engine(b'{\n"a": 1}'), False, b'{ "a": 1}'),
        (Engine(b"oops", status=500, events=True), True, b"oops"),
        (Engine(b"no", b"pe", status=400), False, b"nope"),
        (Engine(b"x" * (ERROR_BYTES - 1), b"yz", b"a"), False, b"x" * (ERROR_BYTES - 1) + b"y"),
        (Engine(b"x" * ERROR_BYTES, b"y"), False, b"x" * ERROR_BYTES),
    ],
    ids=["json", "failed", "parts", "long", "longest"],
)
async def test_after_comments_another_answer_is_one_event(
    engine: Engine, failed: bool, sent: bytes
) -> None:
    client = Client()
    await client.reply.comment("wait")
    assert await client.forward(engine) is failed
    assert client.starts == [(200, COMMENTED)]
    assert client.bodies[1:] == [(b"\n\ndata: " + sent + b"\n\n", False)]
    if len(sent) == ERROR_BYTES and sent.endswith(b"x"):
        assert engine.parts == [b"y"]


async def test_an_answer_that_the_engine_breaks_off_is_told_in_a_stream_alone() -> None:
    plain, streamed = Client(), Client("/v1/chat/completions")
    assert await plain.forward(Engine(b"half", Interrupted("x")))
    assert plain.bodies == [(b"half", True)]
    assert await streamed.forward(Engine(b"half", Interrupted("x"), events=True))
    body, more = streamed.bodies[-1]
    assert (body[:8], body[-2:], more) == (b"\n\ndata: ", b"\n\n", False)
    assert json.loads(body[8:]) == {
        "error": {
            "message": "m: the engine aborted its answer",
            "type": "server_error",
            "param": None,
            "code": "interrupted",
        }
    }


async def test_an_error_of_the_gateway_has_its_status_or_is_an_event() -> None:
    plain, streamed = Client("/v2/models/m"), Client("/v2/models/m")
    error = Unavailable("full", retry_after_s=7.0)
    await plain.reply.refuse(error)
    ((status, headers),) = plain.starts
    assert (status, headers[1]) == (503, (b"retry-after", b"7"))
    assert plain.bodies == [(b'{"error":"full"}', False)]
    await streamed.reply.comment("wait")
    await streamed.reply.refuse(error)
    assert streamed.bodies[1:] == [(b'\n\ndata: {"error": "full"}\n\n', False)]


class Gate:
    """An admission that the test opens."""

    def __init__(self) -> None:
        self.open: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.left: list[Any] = []

    async def __aenter__(self) -> Any:
        return await self.open

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.left.append(kind)


def commented(gate: Gate, client: Client, every_s: float = 0.01) -> CommentedAdmission:
    admission: Any = gate
    return CommentedAdmission(admission=admission, reply=client.reply, every_s=every_s, text="wait")


async def test_comments_are_sent_until_the_model_is_ready() -> None:
    gate, client = Gate(), Client()

    async def enter() -> Any:
        async with commented(gate, client) as found:
            return found

    entering = asyncio.create_task(enter())
    await until(lambda: len(client.bodies) >= 2)
    gate.open.set_result("upstream")
    assert await entering == "upstream"
    assert gate.left == [None]
    assert set(client.bodies) == {(b": wait\n\n", True)}
    refused = Gate()
    refused.open.set_exception(InputError("no"))
    with pytest.raises(InputError):
        await commented(refused, client, 9.0).__aenter__()
    assert refused.left == []


@pytest.mark.parametrize(
    ("outcome", "left"),
    [(None, []), ("upstream", [asyncio.CancelledError]), (InputError("no"), [])],
    ids=["waiting", "admitted", "refused"],
)
async def test_who_leaves_while_it_waits_leaves_the_admission(outcome: Any, left: Any) -> None:
    gate, client = Gate(), Client()
    entering = asyncio.create_task(commented(gate, client, 9.0).__aenter__())
    for _ in range(3):
        await asyncio.sleep(0)
    if isinstance(outcome, Exception):
        gate.open.set_exception(outcome)
    elif outcome is not None:
        gate.open.set_result(outcome)
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert gate.open.cancelled() is (outcome is None)
    assert gate.left == left


# --- in one write --------------------------------------------------------------------------------

GET = b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"


async def test_an_answer_is_one_write_and_the_connection_goes_on() -> None:
    line = Line()
    request = await line.asked(GET)
    writes: list[bytes] = []
    line.wire.write = lambda data: writes.append(bytes(data))  # type: ignore[method-assign]
    await respond_in_one_write(request.send, 201, b"abc", [(b"x", b"1")])
    assert writes == [b"HTTP/1.1 201 Created\r\nx: 1\r\ncontent-length: 3\r\n\r\nabc"]
    assert await request.receive() == {"type": "http.disconnect"}
    assert not line.wire.is_closing()
    request.done.set()
    second = await line.asked(GET)
    await respond_in_one_write(second.send, 200, b"", [])
    assert writes[1:] == [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
    second.done.set()


async def test_an_answer_to_a_client_that_closes_ends_the_connection() -> None:
    line = Line()
    request = await line.asked(b"GET /x HTTP/1.1\r\nconnection: close\r\n\r\n")
    await respond_in_one_write(request.send, 200, b"ab", [])
    assert line.wire.written == (
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab"
    )
    assert line.wire.closed
    request.done.set()


async def test_without_a_connection_that_is_free_it_is_two_messages() -> None:
    client = Client()
    await respond_in_one_write(client._send, 200, b"ab", [])
    assert (client.starts, client.bodies) == (
        [(200, [(b"content-length", b"2")])],
        [(b"ab", False)],
    )
    gone = Line()
    request = await gone.asked(GET)
    gone.protocol.connection_lost(None)
    await respond_in_one_write(request.send, 200, b"ab", [])
    assert gone.wire.written == b""
    request.done.set()
    begun = Line()
    request = await begun.asked(GET)
    await request.begin()
    with pytest.raises(RuntimeError):
        await respond_in_one_write(request.send, 200, b"ab", [])
    paused = Line()
    request = await paused.asked(GET)
    paused.protocol.pause_writing()
    sending = asyncio.create_task(respond_in_one_write(request.send, 200, b"ab", []))
    for _ in range(3):
        await asyncio.sleep(0)
    assert paused.wire.written == b""
    paused.protocol.resume_writing()
    await sending
    assert paused.wire.written.endswith(b"\r\n\r\nab")
    request.done.set()


# --- held bytes, names, usage --------------------------------------------------------------------


def test_bodies_are_bounded_together_and_by_client() -> None:
    held = HeldBytes(most=11)
    assert held._most_each == 6
    with held.holding("a") as one, held.holding("a") as two:
        one.grow(2)
        two.grow(3)
        two.grow(1)
        with pytest.raises(HttpProblem) as mine:
            one.grow(1)
        assert (mine.value.status, mine.value.retry_after_s) == (429, RETRY_AFTER_S)
        assert str(mine.value).startswith("the bodies of this client's requests use all of its 6 ")
        with held.holding("b") as other:
            other.grow(5)
            assert held.total == 11
            with pytest.raises(Unavailable) as all_:
                other.grow(1)
            assert all_.value.retry_after_s == RETRY_AFTER_S
        assert held.total == 6
        assert held._each == {"a": 6}
        with two:
            pass
        assert (held.total, held._each) == (2, {"a": 2})
    assert (held.total, held._each) == (0, {})
    assert HeldBytes(most=1)._most_each == 1


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("m:123456789", ("m", 123456789)),
        ("m:1234567890", ("m:1234567890", None)),
        ("m:0", ("m", 0)),
        (":1", ("", 1)),
        ("a:b:2", ("a:b", 2)),
        ("", ("", None)),
    ],
)
def test_a_version_is_the_number_behind_the_last_colon(name: str, found: Any) -> None:
    model, version = found
    names = Names(aliases={"x": "y:3"})
    assert names.resolve(name) == ModelReference(model=model, version=version)
    assert names.aliases == {"x": ModelReference(model="y", version=3)}
    names.replace({})
    assert names.resolve("x") == ModelReference(model="x")


def test_the_tail_of_an_answer_has_its_usage() -> None:
    said = b'"prompt_tokens" : 7,"completion_tokens":0'
    for before, found in ((0, 7), (TAIL_BYTES - len(said), 7), (TAIL_BYTES - len(said) + 1, None)):
        for cut in (0, 1, len(said), len(said) + before):
            usage = Usage(at=5.0)
            text = said + b"x" * before
            usage.feed(text[:cut])
            usage.feed(text[cut:])
            assert usage.prompt_tokens == found
    usage = Usage(at=5.0)
    usage.feed(said + b'"input_tokens":8', events=True)
    assert usage.log_entry("m", latency_s=2.5) == LoggedRequest(
        at=5.0, model="m", prompt_tokens=8, generated_tokens=0, latency_s=2.5
    )


@pytest.mark.parametrize(
    ("said", "context"),
    [
        ("This model's maximum context length is 8192 tokens. However, your prompt …", 8192),
        ("The decoder prompt (length 9000) is longer than the maximum model length of 512.", 512),
        ("max_tokens must be at least 1", None),
    ],
)
def test_a_refusal_names_the_context_that_was_too_short(said: str, context: int | None) -> None:
    usage = Usage(at=5.0)
    usage.feed(json.dumps({"error": {"message": said, "code": 400}}).encode())
    assert usage.refused_context == context


def answered(prompt: int | None, generated: int | None) -> LoggedRequest:
    return LoggedRequest(0.0, "m", prompt, generated, 1.0)


def test_a_stream_that_counts_no_prompt_has_an_estimated_length() -> None:
    body = b'{"prompt":"%s"}' % (b"x" * 287)
    assert len(body) == 300
    assert estimated_tokens(answered(None, 7), body) == 107
    assert estimated_tokens(answered(None, 7), body + b"  ") == 107
    assert estimated_tokens(answered(90, 7), body) is None, "the engine has counted it"
    assert estimated_tokens(answered(None, None), body) is None, "it has generated nothing"


@pytest.mark.parametrize(
    "body", [b'{"url":"data:image/png;base64,AAAA"}', b'{"type":"input_audio"}', b"--form"]
)
def test_what_is_not_text_has_no_estimated_length(body: bytes) -> None:
    assert estimated_tokens(answered(None, 7), body) is None


def test_a_body_that_no_context_holds_has_no_estimated_length() -> None:
    most = b"{" + b" " * (MOST_TEXT - 1)
    assert estimated_tokens(answered(None, 0), most) == MOST_TEXT // 3
    assert estimated_tokens(answered(None, 0), most + b" ") is None
