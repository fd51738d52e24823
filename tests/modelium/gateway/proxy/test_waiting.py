"""Requests for models that are not loaded, clients that leave, and shutting down."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import openai
import pytest

from modelium.errors import LoadFailed
from tests.fakes.upstream import ENGINE_ERROR, STREAMED, Upstream
from tests.modelium.gateway.conftest import Setup, Start, until

CHAT = {"model": "m", "messages": []}


def pending(setup: Setup) -> int:
    traffic = setup.board.traffic.snapshot().get("m")
    return traffic.pending if traffic else 0


async def test_request_waits_for_its_load_and_is_then_answered(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.know(["m"])
    waiting = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
    await until(lambda: pending(setup) == 1)
    assert setup.listener.demanded[0] == "m"
    setup.board.open("m", engine.address("m"))
    assert (await waiting).status_code == 200
    text = setup.metrics.render().decode()
    assert 'modelium_requests_held_total{model="m"} 1.0' in text
    assert 'modelium_cold_starts_total{model="m"} 1.0' in text


async def test_past_the_longest_wait_it_is_a_503_with_reason_and_retry_after(
    start: Start,
) -> None:
    async with start(max_wait_s=0.2) as setup:
        setup.board.know(["m"])
        setup.board.expect("m", ready_in_s=41.5, reason="queued behind big-model")
        answer = await setup.http.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "42"
        assert "queued behind big-model" in answer.json()["error"]["message"]
        kserve = await setup.http.post("/v2/models/m/infer", content=b"{}")
        assert kserve.status_code == 503
        assert "queued behind big-model" in kserve.json()["error"]
        refused = 'modelium_requests_refused_total{model="m",reason="unavailable"} 2.0'
        assert refused in setup.metrics.render().decode()


async def test_over_the_bound_of_waiters_it_is_a_503_at_once(start: Start) -> None:
    async with start(max_waiting=1) as setup:
        setup.board.know(["m"])
        first = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: pending(setup) == 1)
        second = await setup.http.post("/v1/chat/completions", json=CHAT)
        assert second.status_code == 503
        assert "too many requests already wait" in second.json()["error"]["message"]
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first


async def test_failed_load_is_told_to_those_who_wait(setup: Setup) -> None:
    setup.board.know(["m"])
    waiting = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
    await until(lambda: pending(setup) == 1)
    setup.board.refuse("m", LoadFailed("out of memory on GPU 0"), retry_after_s=60)
    answer = await waiting
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert "out of memory on GPU 0" in answer.json()["error"]["message"]


async def test_openai_client_reads_the_reason(start: Start) -> None:
    async with start(max_wait_s=0.05) as setup:
        setup.board.know(["m"])
        url = f"{setup.gateway.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as ai:
            with pytest.raises(openai.InternalServerError, match="was not ready within"):
                await ai.chat.completions.create(model="m", messages=[])


async def raw_chat(setup: Setup, do: str = "", stream: bool = False) -> asyncio.StreamWriter:
    """Send a chat request over a socket of its own, which is then the test's to close."""
    body = json.dumps({**CHAT, "stream": stream}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"x-do: {do}\r\nx-then: wait\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    return writer


async def test_client_that_leaves_while_it_waits_is_no_longer_counted(setup: Setup) -> None:
    setup.board.know(["m"])
    writer = await raw_chat(setup)
    await until(lambda: pending(setup) == 1)
    writer.close()
    await until(lambda: pending(setup) == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_cancels_the_engines_work(
    setup: Setup, engine: Upstream, stream: bool
) -> None:
    setup.board.open("m", engine.address("m"))
    writer = await raw_chat(setup, do="" if stream else "hold", stream=stream)
    await asyncio.wait_for(engine.arrived.wait(), 20)
    assert not engine.left.is_set()
    writer.close()
    await asyncio.wait_for(engine.left.wait(), 20)
    await until(lambda: setup.board.traffic.in_flight("m") == 0)
    assert setup.board.traffic.snapshot()["m"].failed == 0


async def test_connection_serves_further_requests_after_a_held_one(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    for _ in range(5):
        assert (await setup.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert setup.board.traffic.snapshot()["m"].completed == 5


async def test_unload_waits_for_the_request_in_flight_and_holds_the_next(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    held = asyncio.create_task(
        setup.http.post("/v1/chat/completions", json=CHAT, headers={"x-do": "hold"})
    )
    await asyncio.wait_for(engine.arrived.wait(), 20)
    setup.board.close("m")
    assert not await setup.board.drained("m", timeout_s=0.05)
    late = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
    await until(lambda: pending(setup) == 1)
    assert len(engine.seen) == 1
    engine.release.set()
    assert await setup.board.drained("m", timeout_s=20)
    assert (await held).status_code == 200
    setup.board.open("m", engine.address("m"))
    assert (await late).status_code == 200


async def test_swapping_under_load_loses_no_request(setup: Setup, engine: Upstream) -> None:
    """Two models take turns in one slot, as fast as they drain, under concurrent requests."""
    models = ("a", "b")
    setup.board.know(models)
    wanted: asyncio.Queue[str] = asyncio.Queue()
    setup.listener.demand = wanted.put_nowait
    loaded: str | None = None
    both: list[bool] = []

    async def swap() -> None:
        nonlocal loaded
        while True:
            model = await wanted.get()
            if model == loaded:
                continue
            if loaded is not None:
                setup.board.close(loaded)
                assert await setup.board.drained(loaded, timeout_s=20)
                both.append(setup.board.traffic.in_flight(loaded) > 0)
            loaded = model
            setup.board.open(model, engine.address(model))

    swapping = asyncio.create_task(swap())
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=setup.gateway.url, timeout=60, limits=limits) as http:
        answers = await asyncio.gather(
            *(
                http.post("/v1/chat/completions", json={**CHAT, "model": models[i % 2]})
                for i in range(200)
            )
        )
    swapping.cancel()
    assert [a.status_code for a in answers] == [200] * 200
    assert [a.json()["model"] for a in answers] == [models[i % 2] for i in range(200)]
    assert both
    assert not any(both)


async def test_leaving_sends_waiters_away_and_finishes_what_is_in_flight(
    start: Start, engine: Upstream
) -> None:
    async with start(shutdown_grace_s=20) as setup, httpx.AsyncClient(timeout=30) as http:
        url = f"{setup.gateway.url}/v1/chat/completions"
        setup.board.know(["m", "cold"])
        setup.board.open("m", engine.address("m"))
        held = asyncio.create_task(http.post(url, json=CHAT, headers={"x-do": "hold"}))
        waiting = asyncio.create_task(http.post(url, json={**CHAT, "model": "cold"}))
        await asyncio.wait_for(engine.arrived.wait(), 20)
        await until(lambda: "cold" in setup.board.traffic.snapshot())
        leaving = asyncio.create_task(setup.gateway.__aexit__(None, None, None))
        assert "shutting down" in (await waiting).text
        engine.release.set()
        assert (await held).status_code == 200
        await leaving
        with pytest.raises(httpx.ConnectError):
            await http.post(url, json=CHAT)


async def test_a_stream_that_waits_gets_comments_that_clients_skip(
    start: Start, engine: Upstream
) -> None:
    async with start(stream_comment_seconds=0.05) as setup:
        setup.board.know(["m"])
        url = f"{setup.gateway.url}/v1"
        async with (
            openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as ai,
            setup.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as raw,
        ):
            assert raw.headers["content-type"].startswith("text/event-stream")
            lines = raw.aiter_lines()
            assert await anext(lines) == ": waiting for m to be loaded"
            reading = asyncio.create_task(
                ai.chat.completions.create(model="m", messages=[], stream=True)
            )
            await until(lambda: pending(setup) == 2)
            setup.board.open("m", engine.address("m"))
            texts = [chunk.choices[0].delta.content async for chunk in await reading]
            rest = [line async for line in lines if line.startswith("data: ")]
        assert texts == [f"{i} " for i in range(STREAMED)]
        assert len(rest) == STREAMED + 1
        assert rest[-1] == "data: [DONE]"
        assert setup.board.traffic.snapshot()["m"].completed == 2


@pytest.mark.parametrize("do", ["error", "refuse"])
async def test_an_engines_error_after_comments_is_an_event(
    start: Start, engine: Upstream, do: str
) -> None:
    async with start(stream_comment_seconds=0.05) as setup:
        setup.board.know(["m"])
        body = {**CHAT, "stream": True}
        async with setup.http.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-do": do}
        ) as raw:
            setup.board.open("m", engine.address("m"))
            text = (await raw.aread()).decode()
        assert raw.status_code == 200
        assert json.loads(text.rpartition("data: ")[2]) == ENGINE_ERROR


async def test_a_refusal_after_comments_is_an_event_that_openais_client_raises(
    start: Start,
) -> None:
    async with start(stream_comment_seconds=0.05, max_wait_s=0.3) as setup:
        setup.board.know(["m"])
        url = f"{setup.gateway.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as ai:
            stream = await ai.chat.completions.create(model="m", messages=[], stream=True)
            with pytest.raises(openai.APIError, match="was not ready within"):
                async for _ in stream:
                    raise AssertionError("there is nothing to stream")
        assert pending(setup) == 0


async def test_a_client_that_leaves_between_comments_is_no_longer_counted(start: Start) -> None:
    async with start(stream_comment_seconds=0.02) as setup:
        setup.board.know(["m"])
        writer = await raw_chat(setup, stream=True)
        await until(lambda: pending(setup) == 1)
        writer.close()
        await until(lambda: pending(setup) == 0)
        assert setup.board.traffic.in_flight("m") == 0


async def test_waiters_of_all_models_are_bounded_together(start: Start) -> None:
    async with start(max_waiting_in_all=1) as setup:
        setup.board.know(["m", "n"])
        first = asyncio.create_task(setup.http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: pending(setup) == 1)
        second = await setup.http.post("/v1/chat/completions", json={**CHAT, "model": "n"})
        assert second.status_code == 503
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
