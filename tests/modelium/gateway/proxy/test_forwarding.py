"""Requests that one node's gateway forwards to another's, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from modelium.errors import Unavailable
from modelium.gateway.forwarding import ANSWERED, FORWARDED, MOST_HOPS, PRIORITY
from modelium.models import Priority
from modelium.models import Upstream as Address
from modelium.models.api_keys import KeyTerms, digest
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.upstream import STREAMED, Upstream
from tests.modelium.gateway.conftest import Setup, Start, until
from tests.modelium.gateway.proxy.conftest import CHAT

SECRET = "mdn_of-node-a"
TOKEN = "of-the-operator-of-b"
APIS = frozenset({"openai", "kserve", "generic"})
BEARER = {"authorization": f"Bearer {SECRET}"}


async def known() -> dict[str, str]:
    return {digest(SECRET.encode()): "a"}


def route(port: int, **fields: Any) -> Address:
    """Where `m` is, as its gateway's address on this machine."""
    given = {"host": "127.0.0.1", "port": port, "served_name": "m", "apis": APIS}
    return Address.model_validate({**given, "peer": "b", "api_key": SECRET, **fields})


class Pair:
    """Node ``a``, which clients reach, and node ``b``, which has the model."""

    def __init__(self, a: Setup, b: Setup, engine: Upstream) -> None:
        self.a, self.b, self.engine = a, b, engine
        self.logged_a: list[LoggedRequest] = []
        self.logged_b: list[LoggedRequest] = []

    def load(self) -> None:
        """Have the model answer on ``b``."""
        at = self.engine.address("m-on-b", *APIS, api_key="engine's")
        self.b.board.open("m", at, version=3)
        self.a.board.open("m", route(self.b.port), version=3)


@pytest.fixture
async def pair(start: Start, engine: Upstream) -> AsyncIterator[Pair]:
    lines_a: list[LoggedRequest] = []
    lines_b: list[LoggedRequest] = []
    settings: dict[str, Any] = {"identities": known}
    async with (
        start(
            token=TOKEN, on_answered=lines_b.append, on_forwarded=lines_b.append, **settings
        ) as b,
        start(on_answered=lines_a.append, on_forwarded=lines_a.append, **settings) as a,
    ):
        found = Pair(a, b, engine)
        found.logged_a, found.logged_b = lines_a, lines_b
        found.load()
        yield found


async def test_every_api_is_answered_by_the_node_that_has_the_model(pair: Pair) -> None:
    http, seen = pair.a.http, pair.engine.seen
    tensor = {"inputs": [{"name": "IN", "shape": [1], "datatype": "FP32", "data": [1]}]}
    asked = [
        await http.post("/v1/chat/completions?x=1", json=CHAT, headers={"cookie": "secret"}),
        await http.post("/models/m/v1/chat/completions", json={"messages": []}),
        await http.post("/v2/models/m/infer", json=tensor),
        await http.get("/models/m/own/route%20x?y=2"),
        await http.put("/models/m/own", content=b"body"),
    ]
    assert [answer.status_code for answer in asked] == [200] * 5, [a.text for a in asked]
    assert [(one.method, one.target) for one in seen] == [
        ("POST", "/v1/chat/completions?x=1"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v2/models/m-on-b/infer"),
        ("GET", "/own/route%20x?y=2"),
        ("PUT", "/own"),
    ]
    assert [seen[0].json["model"], seen[1].json["model"]] == ["m-on-b", "m-on-b"]
    for one in seen:
        assert one.headers["authorization"] == "Bearer engine's"
        assert not {"cookie", "x-modelium-forwarded", "x-modelium-priority"} & one.headers.keys()
    assert all(ANSWERED.decode() not in answer.headers for answer in asked)


async def test_a_stream_arrives_event_by_event(pair: Pair) -> None:
    body = {**CHAT, "stream": True}
    async with pair.a.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        text = (await answer.aread()).decode()
    assert text.count("data: {") == STREAMED
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_a_client_that_leaves_ends_the_engines_work_on_the_other_node(pair: Pair) -> None:
    asking = asyncio.create_task(
        pair.a.http.post("/v1/completions", json=CHAT, headers={"x-do": "hold"})
    )
    await asyncio.wait_for(pair.engine.arrived.wait(), 20)
    asking.cancel()
    await asyncio.wait_for(pair.engine.left.wait(), 20)
    await until(lambda: pair.b.board.traffic.in_flight("m") == 0)


@pytest.mark.parametrize(
    ("do", "status"), [("error", 500), ("refuse", 400), ("empty", 204), ("cut", 0)]
)
async def test_what_the_engine_answers_is_the_clients_business(
    pair: Pair, do: str, status: int
) -> None:
    with contextlib.suppress(Exception) if not status else contextlib.nullcontext():
        answer = await pair.a.http.post("/v1/completions", json=CHAT, headers={"x-do": do})
        assert answer.status_code == status
    assert len(pair.engine.seen) == 1, "nothing is sent twice"
    await until(lambda: pair.b.board.traffic.in_flight("m") == 0)
    # Only the gateway beside the engine judges it.
    assert pair.a.listener.failed == pair.a.listener.unreached == []
    assert len(pair.b.listener.failed) == (status == 500)


async def test_each_request_is_counted_once_over_both(pair: Pair) -> None:
    for _ in range(3):
        assert (await pair.a.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    await pair.a.http.post("/v1/completions", json=CHAT, headers={"x-do": "error"})
    await until(lambda: pair.b.board.traffic.in_flight("m") == 0)
    here = pair.a.board.traffic.snapshot()["m"]
    there = pair.b.board.traffic.snapshot()["m"]
    assert (here.completed, here.failed, here.in_flight, here.generated_tokens) == (0, 0, 0, 0)
    assert (there.completed, there.failed, there.in_flight) == (3, 1, 0)
    assert (there.prompt_tokens, there.generated_tokens) == (3, 3)
    # Arrivals are demand where clients arrive.
    assert here.qps > 0 and sum(here.intervals) == 3
    assert there.qps == 0 and there.first_request_at is None
    await until(lambda: len(pair.logged_a) == 3)
    assert {(line.model, line.prompt_tokens) for line in pair.logged_a} == {("m", 1)}
    assert pair.logged_b == []


async def test_the_clients_class_waits_on_the_other_node_and_limits_apply_once(
    pair: Pair,
) -> None:
    terms = KeyTerms(name="k", priority=Priority.HIGH, requests_per_minute=1)
    issued = await pair.a.operations.issue_key(terms)
    pair.b.operations.issued = pair.a.operations.issued
    for setup in (pair.a, pair.b):
        await setup.gateway._keys.refresh()
    at = pair.b.board.upstream("m")
    assert at is not None
    pair.b.board.close("m")
    asking = asyncio.create_task(
        pair.a.http.post(
            "/v1/completions", json=CHAT, headers={"authorization": f"Bearer {issued.secret}"}
        )
    )
    await until(lambda: bool(pair.b.listener.demanded))
    waiting = pair.b.board.traffic.snapshot()["m"]
    assert (waiting.pending, waiting.pending_priority) == (1, Priority.HIGH)
    assert pair.a.board.traffic.snapshot()["m"].pending == 0, "it waits in one place"
    pair.b.board.open("m", at, version=3)
    assert (await asking).status_code == 200
    asked = await pair.a.http.post(
        "/v1/completions", json=CHAT, headers={"authorization": f"Bearer {issued.secret}"}
    )
    assert (asked.status_code, asked.json()["error"]["code"]) == (429, "rate-limited")


async def test_what_a_client_says_of_itself_is_not_believed(pair: Pair) -> None:
    marks = {FORWARDED.decode(): "9", PRIORITY.decode(): "high", ANSWERED.decode(): "1"}
    token = {"authorization": f"Bearer {TOKEN}"}
    for http, credentials in ((pair.a.http, {}), (pair.b.http, token)):
        answer = await http.post("/v1/completions", json=CHAT, headers={**marks, **credentials})
        assert answer.status_code == 200
        assert ANSWERED.decode() not in answer.headers
    assert not any(name.startswith("x-modelium") for name in pair.engine.seen[-1].headers)
    pair.b.board.close("m")
    asking = asyncio.create_task(
        pair.b.http.post("/v1/completions", json=CHAT, headers={**marks, **token})
    )
    await until(lambda: pair.b.board.traffic.pending("m") == 1)
    assert pair.b.board.traffic.snapshot()["m"].pending_priority is None
    asking.cancel()


async def test_a_request_that_goes_in_circles_is_refused(pair: Pair) -> None:
    # Each of the two believes that the other one has it.
    pair.b.board.open("m", route(pair.a.port, peer="a"), version=3)
    asked = {**BEARER, FORWARDED.decode(): str(MOST_HOPS)}
    for hops in (str(MOST_HOPS), str(MOST_HOPS + 1), "x", "-1", "99999"):
        asked = {**BEARER, FORWARDED.decode(): hops}
        answer = await pair.b.http.post("/v1/completions", json=CHAT, headers=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (508, "moved")
        assert ANSWERED.decode() not in answer.headers
        assert int(answer.headers["retry-after"]) >= 1
    unmarked = await pair.b.http.post("/v1/completions", json=CHAT, headers=BEARER)
    assert unmarked.status_code == 508
    assert pair.engine.seen == []


async def test_a_model_that_moved_is_reached_through_the_node_that_had_it(
    pair: Pair, start: Start
) -> None:
    async with start(token=TOKEN, identities=known) as c:
        c.board.open("m", pair.engine.address("m"), version=3)
        pair.b.board.open("m", route(c.port, peer="c"), version=3)
        assert (await pair.a.http.post("/v1/completions", json=CHAT)).status_code == 200
    await until(lambda: c.board.traffic.in_flight("m") == 0)
    assert c.board.traffic.snapshot()["m"].completed == 1
    there = pair.b.board.traffic.snapshot().get("m")
    assert there is None or there.completed == 0


async def test_a_node_that_does_not_know_the_model_yet_makes_the_request_wait(pair: Pair) -> None:
    pair.b.board.close("m")
    pair.b.board.know([])
    asking = asyncio.create_task(pair.a.http.post("/v1/completions", json=CHAT))
    await until(lambda: pair.a.board.traffic.pending("m") == 1)
    assert pair.a.listener.unreached == ["m"]
    assert "m" in pair.a.listener.demanded
    pair.load()
    assert (await asking).status_code == 200
    assert pair.a.board.traffic.snapshot()["m"].qps * 60 == pytest.approx(1), "it arrived once"


async def test_a_node_that_is_not_there_is_tried_again_whenever_it_is_opened(pair: Pair) -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    asking = asyncio.create_task(pair.a.http.post("/v1/completions", json=CHAT))
    pair.a.board.close("m")
    unreached = pair.a.listener.unreached
    for _ in range(3):
        await until(lambda: pair.a.board.traffic.pending("m") == 1)
        pair.a.board.open("m", route(port), version=3)
        unreached.clear()
        await until(lambda: unreached == ["m"])
    assert pair.a.board.is_suspect("m")
    assert pair.engine.seen == []
    pair.a.board.open("m", route(pair.b.port), version=3)
    assert (await asking).status_code == 200


async def test_waiting_for_a_node_ends_with_the_clients_patience(start: Start) -> None:
    async with start(max_wait_s=0.05) as setup:
        setup.board.open("m", route(1), version=3)
        answer = await setup.http.post("/v1/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "m was not ready within 0.05 s" in answer.json()["error"]["message"]


async def test_a_node_that_shuts_down_keeps_no_request_from_being_answered(pair: Pair) -> None:
    pair.b.board.close("m")
    asking = asyncio.create_task(pair.a.http.post("/v1/completions", json=CHAT))
    await until(lambda: pair.b.board.traffic.pending("m") == 1)
    await pair.b.gateway.__aexit__(None, None, None)
    await until(lambda: pair.a.board.traffic.pending("m") == 1)
    pair.a.board.open("m", pair.engine.address("m"), version=3)
    assert (await asking).status_code == 200


async def test_what_keeps_the_model_from_loading_is_told_to_the_client(pair: Pair) -> None:
    pair.b.board.close("m")
    asking = asyncio.create_task(pair.a.http.post("/v1/completions", json=CHAT))
    await until(lambda: pair.b.board.traffic.pending("m") == 1)
    pair.b.board.refuse("m", Unavailable("m: the load failed: no memory"), retry_after_s=7)
    answer = await asking
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"]["message"] == "m: the load failed: no memory"


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def impostor(answer: bytes) -> AsyncIterator[int]:
    """A server that is no gateway and gives ``answer`` to each request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:%d/v1/completions\r\n"
        b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
        b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 503 x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nendle\r\n",
        b"",
    ],
    ids=["redirect", "no gateway", "not known there", "endless", "no HTTP"],
)
async def test_an_answer_that_no_gateway_vouches_for_never_reaches_a_client(
    pair: Pair, answer: bytes
) -> None:
    answer = answer % pair.b.port if b"%d" in answer else answer
    async with impostor(answer) as port:
        pair.a.board.open("m", route(port), version=3)
        asking = asyncio.create_task(pair.a.http.post("/v1/completions", json=CHAT))
        if answer:
            await until(lambda: pair.a.board.traffic.pending("m") == 1)
            assert pair.engine.seen == [], "redirects are not followed"
            pair.a.board.open("m", route(pair.b.port), version=3)
            assert (await asking).status_code == 200
        else:  # nobody knows whether it was carried out
            told = await asking
            assert told.status_code == 503
            assert "node b does not answer" in json.dumps(told.json())


async def test_a_request_that_only_the_other_gateway_finds_too_large_closes_nothing(
    pair: Pair,
) -> None:
    headers = [(f"x-{number}", "1") for number in range(194)]  # with `a`'s own, one too many
    told = await pair.a.http.post("/v1/completions", json=CHAT, headers=headers)
    assert told.status_code == 431
    assert pair.a.board.upstream("m") is not None, "requests of others wait"


async def test_a_page_of_the_gateway_that_it_reached_is_no_foreign_one_at_the_next(
    pair: Pair,
) -> None:
    headers = {"host": "localhost:1", "origin": "http://localhost:1", "sec-fetch-site": "none"}
    asking = pair.a.http.post("/v1/completions", json=CHAT, headers=headers)
    assert (await asyncio.wait_for(asking, 20)).status_code == 200
    foreign = {"authorization": f"Bearer {TOKEN}", "origin": "http://elsewhere"}
    refused = await pair.b.http.post("/v1/completions", json=CHAT, headers=foreign)
    assert refused.status_code == 403


async def test_bodies_of_one_client_leave_room_for_the_others_of_its_gateway(pair: Pair) -> None:
    held = pair.b.gateway._data._held
    held._most_each = 3000
    secrets = [
        (await pair.a.operations.issue_key(KeyTerms(name=name, scopes=("infer",)))).secret
        for name in "xy"
    ]
    await pair.a.gateway._keys.refresh()
    body = {**CHAT, "pad": "x" * 2000}
    greedy = [
        asyncio.create_task(
            pair.a.http.post(
                "/v1/completions", json=body,
                headers={"authorization": f"Bearer {secrets[0]}", "x-do": "hold"},
            )
        )
    ]  # fmt: skip
    await asyncio.wait_for(pair.engine.arrived.wait(), 20)
    other = pair.a.http.post(
        "/v1/completions", json=body, headers={"authorization": f"Bearer {secrets[1]}"}
    )
    assert (await asyncio.wait_for(other, 20)).status_code == 200
    for one in greedy:
        one.cancel()
