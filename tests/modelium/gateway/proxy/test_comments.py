"""Comments and errors in streams that wait for their model."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from modelium.errors import LoadFailed
from tests.fakes.upstream import ENGINE_ERROR, STREAMED, Upstream
from tests.modelium.gateway.conftest import Start, until
from tests.modelium.gateway.proxy.conftest import CHAT, pending


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
    async with start(stream_comment_seconds=0.05) as setup:
        setup.board.know(["m"])
        url = f"{setup.gateway.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as ai:
            stream = await ai.chat.completions.create(model="m", messages=[], stream=True)
            setup.board.refuse("m", LoadFailed("out of memory on GPU 0"), retry_after_s=60)
            with pytest.raises(openai.APIError, match="out of memory on GPU 0"):
                async for _ in stream:
                    raise AssertionError("there is nothing to stream")
        assert pending(setup) == 0
