"""Answers of engines, as clients receive them."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest

from tests.fakes.upstream import ENGINE_ERROR, STREAMED, Upstream
from tests.modelium.gateway.conftest import Setup
from tests.modelium.gateway.proxy.conftest import MESSAGES, client

pytestmark = pytest.mark.slow


async def test_openai_client_streams_all_chunks_in_order(setup: Setup, engine: Upstream) -> None:
    setup.board.open("gpt2", engine.address("gpt2"))
    async with client(setup) as ai:
        stream = await ai.chat.completions.create(model="gpt2", messages=MESSAGES, stream=True)
        texts = [chunk.choices[0].delta.content async for chunk in stream]
    assert texts == [f"{i} " for i in range(STREAMED)]


async def test_many_streams_at_once_lose_and_reorder_nothing(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("gpt2", engine.address("gpt2"))

    async def read(ai: openai.AsyncOpenAI) -> list[str | None]:
        stream = await ai.chat.completions.create(
            model="gpt2", messages=MESSAGES, stream=True, extra_headers={"x-chunks": "100"}
        )
        return [chunk.choices[0].delta.content async for chunk in stream]

    async with client(setup) as ai:
        streams = await asyncio.gather(*(read(ai) for _ in range(32)))
    assert all(texts == [f"{i} " for i in range(100)] for texts in streams)


async def test_first_chunk_arrives_before_the_engine_makes_the_second(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("gpt2", engine.address("gpt2"))
    async with client(setup) as ai:
        stream = await ai.chat.completions.create(
            model="gpt2", messages=MESSAGES, stream=True, extra_headers={"x-then": "wait"}
        )
        first = await asyncio.wait_for(anext(stream), 20)
        assert first.choices[0].delta.content == "0 "
        engine.release.set()
        assert len([chunk async for chunk in stream]) == STREAMED - 1


async def test_engine_errors_keep_status_and_shape_and_count_by_side(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    for do, status in (("error", 500), ("refuse", 400)):
        answer = await setup.http.post("/v1/completions", json={"model": "m"}, headers={"x-do": do})
        assert (answer.status_code, answer.json()) == (status, ENGINE_ERROR)
    traffic = setup.board.traffic.snapshot()["m"]
    assert (traffic.completed, traffic.failed, traffic.in_flight) == (1, 1, 0)


async def test_stream_that_the_engine_breaks_off_ends_in_an_error_for_the_client(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    texts = []
    async with client(setup) as ai:
        stream = await ai.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, extra_headers={"x-do": "cut"}
        )
        with pytest.raises(openai.APIError, match="aborted its answer"):
            async for chunk in stream:
                texts.append(chunk.choices[0].delta.content)
    assert texts == ["0 ", "1 ", "2 "]
    assert setup.board.traffic.snapshot()["m"].failed == 1


async def test_answer_that_the_engine_breaks_off_is_not_taken_for_whole(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    with pytest.raises(httpx.RemoteProtocolError):
        await setup.http.post("/v1/completions", json={"model": "m"}, headers={"x-do": "cut"})
    assert setup.board.traffic.snapshot()["m"].failed == 1


async def test_head_and_bodiless_answers_keep_their_own_length(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m", "generic"))
    whole = await setup.http.get("/models/m/some/path")
    head = await setup.http.head("/models/m/some/path")
    assert (head.status_code, head.content) == (200, b"")
    assert abs(int(head.headers["content-length"]) - len(whole.content)) < 50
    empty = await setup.http.get("/models/m/some/path", headers={"x-do": "empty"})
    assert (empty.status_code, empty.content) == (204, b"")
    assert "content-length" not in empty.headers
