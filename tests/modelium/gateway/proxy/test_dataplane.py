"""Requests for a loaded model, by each kind of client, and their limits."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.http
from langchain_openai import ChatOpenAI

from modelium.clock import SystemClock
from modelium.gateway.proxy.dataplane import DataPlane
from modelium.gateway.proxy.names import Names
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.models import Traffic
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.upstream import STREAMED, Upstream
from tests.modelium.gateway.conftest import Setup, Start, until
from tests.modelium.gateway.proxy.conftest import MESSAGES, client

pytestmark = pytest.mark.slow


async def test_openai_client_chats_under_the_name_that_modelium_gave(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("gpt2", engine.address("/models/repository/gpt2"))
    async with client(setup) as ai:
        answer = await ai.chat.completions.create(model="gpt2", messages=MESSAGES, temperature=0.5)
    assert answer.choices[0].message.content == "hello"
    assert engine.seen[0].json["model"] == "/models/repository/gpt2"
    assert engine.seen[0].json["temperature"] == 0.5


async def test_langchain_chats(setup: Setup, engine: Upstream) -> None:
    setup.board.open("gpt2", engine.address("gpt2"))
    chat = ChatOpenAI(model="gpt2", base_url=f"{setup.gateway.url}/v1", api_key="k")
    assert (await chat.ainvoke("hi")).content == "hello"


async def test_openai_client_embeds(setup: Setup, engine: Upstream) -> None:
    setup.board.open("minilm", engine.address("minilm"))
    async with client(setup) as ai:
        answer = await ai.embeddings.create(model="minilm", input="hi", encoding_format="float")
    assert answer.data[0].embedding == [0.5, 0.25]


async def test_triton_client_infers_with_binary_tensors(setup: Setup, engine: Upstream) -> None:
    setup.board.open("magika", engine.address("magika_v1", "kserve"))
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)

    def infer() -> np.ndarray:
        with tritonclient.http.InferenceServerClient(f"127.0.0.1:{setup.port}") as triton:
            assert triton.is_server_live()
            assert triton.is_server_ready()
            assert triton.is_model_ready("magika")
            assert triton.get_server_metadata()["name"] == "modelium"
            assert triton.get_model_metadata("magika")["name"] == "magika_v1"
            tensor = tritonclient.http.InferInput("IN", sent.shape, "FP32")
            tensor.set_data_from_numpy(sent, binary_data=True)
            return triton.infer("magika", [tensor]).as_numpy("OUT")

    received = await asyncio.to_thread(infer)
    np.testing.assert_array_equal(received, sent)
    assert engine.seen[-1].target == "/v2/models/magika_v1/infer"


async def test_unknown_model_is_a_404_in_each_apis_shape(setup: Setup) -> None:
    async with client(setup) as ai:
        with pytest.raises(openai.NotFoundError, match="no model is named 'nope'"):
            await ai.chat.completions.create(model="nope", messages=MESSAGES)
    answer = await setup.http.post("/v2/models/nope/infer", content=b"{}")
    assert answer.status_code == 404
    assert "no model is named" in answer.json()["error"]


async def test_body_over_the_bound_is_a_413(start: Start, engine: Upstream) -> None:
    async with start(max_body_bytes=1000) as setup:
        setup.board.open("m", engine.address("m", "kserve"))
        big = await setup.http.post("/v2/models/m/infer", content=b"x" * 1001)

        async def parts():  # type: ignore[no-untyped-def]
            for _ in range(40):
                yield b"x" * 100_000

        chunked = await setup.http.post("/v2/models/m/infer", content=parts())
    assert (big.status_code, chunked.status_code) == (413, 413)
    assert "exceeds 1000 bytes" in big.json()["error"]
    assert engine.seen == []


async def test_bodies_are_bounded_together_and_by_client_from_their_first_byte(
    setup: Setup, engine: Upstream
) -> None:
    async with UpstreamClient() as reached:
        plane = DataPlane(
            switchboard=setup.board,
            client=reached,
            names=Names(aliases={}),
            refusals=setup.metrics,
            clock=SystemClock(),
            max_body_bytes=100,
            max_held_bytes=250,
        )
        setup.board.know(["m"])
        arrived = asyncio.Event()

        async def request(client: str, *, complete: bool = True) -> int:
            answers: list[Any] = []
            body = [{"type": "http.request", "body": b"x" * 100, "more_body": not complete}]

            async def receive() -> dict[str, Any]:
                if body:
                    return body.pop()
                arrived.set()
                await asyncio.get_running_loop().create_future()
                raise AssertionError

            async def send(message: Any) -> None:
                answers.append(message)

            path = "/v2/models/m/infer"
            scope = {"method": "POST", "path": path, "raw_path": path.encode(), "headers": []}
            scope |= {"query_string": b"", "client": (client, 1)}
            route = plane.route(scope)
            assert route is not None
            await plane.answer(route, scope, receive, send)
            return int(answers[0]["status"])

        unfinished = asyncio.create_task(request("a", complete=False))
        await arrived.wait()
        assert await request("a") == 429
        waiting = asyncio.create_task(request("b"))
        await until(lambda: setup.board.traffic.snapshot().get("m", Traffic()).pending == 1)
        assert await request("c") == 503
        setup.board.open("m", engine.address("m", "generic"))
        assert await waiting == 400
        unfinished.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unfinished
        assert await request("a") == 400


async def test_latency_and_counts_are_of_the_engine(setup: Setup, engine: Upstream) -> None:
    setup.board.open("m", engine.address("m"))
    for _ in range(3):
        await setup.http.post("/v1/completions", json={"model": "m"})
    traffic = setup.board.traffic.snapshot()["m"]
    assert (traffic.completed, traffic.failed, traffic.in_flight) == (3, 0, 0)
    assert traffic.latency_p50_s is not None
    assert traffic.latency_p50_s > 0


async def test_answered_requests_are_logged_without_content(start: Start, engine: Upstream) -> None:
    lines: list[LoggedRequest] = []
    async with start(on_answered=lines.append) as setup:
        setup.board.open("gpt2", engine.address("gpt2"))
        async with client(setup) as ai:
            await ai.chat.completions.create(model="gpt2", messages=MESSAGES)
            stream = await ai.chat.completions.create(model="gpt2", messages=MESSAGES, stream=True)
            async for _ in stream:
                pass
        refused = {"model": "gpt2", "messages": []}
        await setup.http.post("/v1/chat/completions", json=refused, headers={"x-do": "error"})
        await setup.http.get("/v2/models/gpt2")
        await until(lambda: len(lines) == 2)
    whole, streamed = lines
    assert len(lines) == 2, "neither errors nor questions about a model"
    assert (whole.model, whole.prompt_tokens, whole.generated_tokens) == ("gpt2", 1, 1)
    assert (streamed.prompt_tokens, streamed.generated_tokens) == (None, STREAMED)
    assert whole.at <= streamed.at and whole.latency_s > 0
