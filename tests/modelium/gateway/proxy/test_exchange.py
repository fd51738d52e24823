"""What the data plane makes of a request, at its edges."""

from __future__ import annotations

import json

import pytest

from modelium.gateway.json_fields import SMALL_BYTES
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.upstream import CONTEXT, STREAMED, Upstream
from tests.modelium.gateway.conftest import Setup, Start, until
from tests.modelium.gateway.proxy.conftest import CHAT
from tests.modelium.traffic.test_book import HandClock


@pytest.mark.parametrize("size", [0, SMALL_BYTES])
async def test_small_and_large_bodies_are_sent_alike(
    setup: Setup, engine: Upstream, size: int
) -> None:
    setup.board.open("m", engine.address("served"))
    body = json.dumps(CHAT).encode() + b" " * size
    assert (await setup.http.post("/v1/completions?a=%20b", content=body)).status_code == 200
    (seen,) = engine.seen
    assert seen.target == "/v1/completions?a=%20b"
    assert seen.body == body.replace(b'"m"', b'"served"')


@pytest.mark.parametrize(
    ("do", "status", "failed", "completed"),
    [("", 200, 0, 1), ("refuse", 400, 0, 1), ("error", 500, 1, 0), ("empty", 204, 0, 1)],
)
async def test_only_an_engines_own_failures_count_as_such(
    start: Start, engine: Upstream, do: str, status: int, failed: int, completed: int
) -> None:
    logged: list[LoggedRequest] = []
    async with start(on_answered=logged.append) as setup:
        setup.board.open("m", engine.address("m"))
        answer = await setup.http.post("/v1/completions", json=CHAT, headers={"x-do": do})
        assert answer.status_code == status
        await until(lambda: setup.board.traffic.in_flight("m") == 0)
        traffic = setup.board.traffic.snapshot()["m"]
        assert (traffic.failed, traffic.completed) == (failed, completed)
    assert len(logged) == (status < 400)
    assert setup.listener.unreached == []


async def test_refusals_are_counted_by_model_where_they_ask_for_patience(start: Start) -> None:
    async with start(max_wait_s=0.01, max_body_bytes=100) as setup:
        setup.board.know(["m"])
        assert (await setup.http.post("/v1/completions", json=CHAT)).status_code == 503
        assert (await setup.http.post("/v1/completions", json={"model": "x"})).status_code == 404
        big = await setup.http.post("/v1/completions", content=b"x" * 101)
        assert (big.status_code, big.json()["error"]["code"]) == (413, "too-large")
        assert big.json()["error"]["message"] == "the request body exceeds 100 bytes"
        text = setup.metrics.render().decode()
        counted = [
            one for one in text.splitlines() if one.startswith("modelium_requests_refused_total{")
        ]
        assert counted == ['modelium_requests_refused_total{model="m",reason="unavailable"} 1.0']
        assert setup.gateway._data._held.total == 0


def ignore(_: LoggedRequest) -> None:
    """Log nothing."""


async def test_a_stream_without_usage_counts_with_its_estimated_length(
    start: Start, engine: Upstream
) -> None:
    async with start(on_answered=ignore) as setup:
        setup.board.open("m", engine.address("m"))
        text = json.dumps({**CHAT, "stream": True, "user": "x" * 3000})
        answer = await setup.http.post("/v1/chat/completions", content=text)
        assert answer.status_code == 200
        await until(lambda: setup.board.traffic.in_flight("m") == 0)
        seen = setup.board.traffic.snapshot()["m"]
        assert (seen.longest_tokens, seen.sized) == (len(text) // 3 + STREAMED, 1)


@pytest.mark.parametrize(("do", "context"), [("too-long", CONTEXT), ("refuse", 0), ("error", 0)])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_context_that_refuses_requests_as_too_long_is_known(
    start: Start, engine: Upstream, waits: bool, do: str, context: int
) -> None:
    clock = HandClock()
    async with start(on_answered=ignore, stream_comment_seconds=0.01) as setup:
        setup.board.traffic._clock = clock
        setup.board.know(["m"])
        for turn in range(3):
            if waits:
                setup.board.close("m")
            else:
                setup.board.open("m", engine.address("m"))
            body = {**CHAT, "stream": True}
            async with setup.http.stream(
                "POST", "/v1/chat/completions", json=body, headers={"x-do": do}
            ) as answer:  # comments begin the stream of one that waits
                setup.board.open("m", engine.address("m"))
                await answer.aread()
            assert (answer.status_code == 200) is waits
            await until(lambda: setup.board.traffic.in_flight("m") == 0)
            seen = setup.board.traffic.snapshot()["m"]
            assert seen.short_context == (context if turn == 2 else 0)
            clock.now += 600
