"""Requests that pass through to a loaded model: routes, shapes, headers, streams."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http
from langchain_openai import ChatOpenAI

from modelium.clock import SystemClock
from modelium.errors import DeadlineExceeded
from modelium.gateway.proxy.dataplane import DataPlane
from modelium.gateway.proxy.names import Names
from modelium.gateway.proxy.upstream import UpstreamClient
from modelium.models import Traffic
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.upstream import ENGINE_ERROR, STREAMED, Upstream
from tests.modelium.gateway.conftest import Setup, Start, until

MESSAGES = [{"role": "user", "content": "hi"}]


def client(setup: Setup) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{setup.gateway.url}/v1", api_key="k", max_retries=0)


async def test_openai_client_chats_under_the_name_that_modelium_gave(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("gpt2", engine.address("/models/repository/gpt2"))
    async with client(setup) as ai:
        answer = await ai.chat.completions.create(model="gpt2", messages=MESSAGES, temperature=0.5)
    assert answer.choices[0].message.content == "hello"
    assert engine.seen[0].json["model"] == "/models/repository/gpt2"
    assert engine.seen[0].json["temperature"] == 0.5


async def test_body_passes_untouched_where_the_name_is_the_engines_own(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("gpt2", engine.address("gpt2"))
    body = b'{ "model":"gpt2",  "messages": [], "odd": 1e400 }'
    await setup.http.post("/v1/chat/completions", content=body)
    assert engine.seen[0].body == body


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b'{ "odd": 1e400,  "model" : "gpt2" }', b'{ "odd": 1e400,  "model" : "ser\\"ved" }'),
        (b'{"model": "gpt2", "s": "\\"model\\": \\"x\\""}', None),
        (b'{"model": "gpt\\u0032", "n": {"model": "other"}}', None),
        (b'{"n": {"model": "other"}, "mod\\u0065l": "gpt2"}', None),
        (b'{"model": "other", "model": "gpt2"}', b'{"model":"ser\\"ved"}'),
        ('{"model": "gpt2"}'.encode("utf-16"), b'{"model":"ser\\"ved"}'),
    ],
)
async def test_another_name_changes_the_models_field_alone(
    setup: Setup, engine: Upstream, sent: bytes, expected: bytes | None
) -> None:
    setup.board.open("gpt2", engine.address('ser"ved'))
    await setup.http.post("/v1/chat/completions", content=sent)
    (seen,) = engine.seen
    assert seen.json == {**json.loads(sent), "model": 'ser"ved'}
    assert expected is None or seen.body == expected


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


async def test_langchain_chats(setup: Setup, engine: Upstream) -> None:
    setup.board.open("gpt2", engine.address("gpt2"))
    chat = ChatOpenAI(model="gpt2", base_url=f"{setup.gateway.url}/v1", api_key="k")
    assert (await chat.ainvoke("hi")).content == "hello"


async def test_openai_client_embeds(setup: Setup, engine: Upstream) -> None:
    setup.board.open("minilm", engine.address("minilm"))
    async with client(setup) as ai:
        answer = await ai.embeddings.create(model="minilm", input="hi", encoding_format="float")
    assert answer.data[0].embedding == [0.5, 0.25]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/tokenize", "/v1/rerank"])
async def test_other_openai_routes_pass_through(setup: Setup, engine: Upstream, path: str) -> None:
    setup.board.open("gpt2", engine.address("served"))
    answer = await setup.http.post(f"{path}?a=b%20c", json={"model": "gpt2", "x": 1})
    assert answer.json()["target"] == f"{path}?a=b%20c"
    assert json.loads(answer.json()["body"]) == {"model": "served", "x": 1}


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


async def test_kserve_version_and_prefix_reach_the_engine(setup: Setup, engine: Upstream) -> None:
    setup.board.open("m", engine.address("m", "kserve", prefix="/app"))
    await setup.http.post("/v2/models/m/versions/3/infer", content=b'{"inputs": []}')
    assert engine.seen[0].target == "/app/v2/models/m/versions/3/infer"


async def test_generic_path_reaches_the_engine_as_it_was_encoded(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m", "generic", prefix="/m"))
    answer = await setup.http.put("/models/m/a%2Fb/c?x=1&x=2", content=b"\x00\xff")
    assert answer.json()["method"] == "PUT"
    assert answer.json()["target"] == "/m/a%2Fb/c?x=1&x=2"
    assert engine.seen[0].body == b"\x00\xff"


async def test_openai_routes_are_reached_below_the_models_own_path(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("served"))
    answer = await setup.http.post(
        "/models/m/v1/chat/completions", json={"model": "anything", "messages": []}
    )
    assert answer.json()["model"] == "served"


@pytest.mark.parametrize("path", ["/models/m/sleep", "/models/m/v1/load_lora_adapter"])
async def test_engines_own_management_is_not_reached(
    setup: Setup, engine: Upstream, path: str
) -> None:
    setup.board.open("m", engine.address("m", "openai"))
    answer = await setup.http.post(path, json={})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "wrong-api"
    assert engine.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/m/trace/setting",
        "/v2/repository/models/m/unload",
        "/v2/models/m/versions/1/../../x/infer",
        "/models/m/a/%2e%2e/%2e%2e/x",
    ],
)
async def test_paths_beyond_inference_are_unknown(
    setup: Setup, engine: Upstream, path: str
) -> None:
    setup.board.open("m", engine.address("m", "kserve", "generic"))
    request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.port)
    writer.write(request.encode())
    assert (await reader.readline()).split()[1] == b"404"
    writer.close()
    assert engine.seen == []


async def test_wrong_api_is_told_and_is_no_failure_of_the_model(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m", "kserve"))
    answer = await setup.http.post("/v1/completions", json={"model": "m"})
    assert answer.status_code == 400
    assert "supported: kserve" in answer.json()["error"]["message"]
    assert setup.board.traffic.snapshot()["m"].failed == 0


async def test_only_end_to_end_headers_and_the_engines_own_key_are_sent(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m", api_key="engine-key"))
    headers = {
        "authorization": "Bearer client-key",
        "cookie": "a=b",
        "connection": "keep-alive, x-hop",
        "x-hop": "1",
        "x-request-id": "r1",
        "te": "trailers",
    }
    answer = await setup.http.post("/v1/completions", json={"model": "m"}, headers=headers)
    sent = engine.seen[0].headers
    assert sent["authorization"] == "Bearer engine-key"
    assert sent["x-request-id"] == "r1"
    assert sent["host"] == f"127.0.0.1:{engine.port}"
    assert not {"cookie", "x-hop", "te"} & sent.keys()
    assert answer.headers["x-engine"] == "fake"
    assert "keep-alive" not in answer.headers


async def test_no_encoding_is_asked_for_that_the_client_did_not_offer(
    setup: Setup, engine: Upstream
) -> None:
    setup.board.open("m", engine.address("m"))
    request = setup.http.build_request("POST", "/v1/completions", json={"model": "m"})
    del request.headers["accept-encoding"]
    await setup.http.send(request)
    assert engine.seen[0].headers["accept-encoding"] == "identity"
    assert "authorization" not in engine.seen[0].headers


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


async def test_engine_that_is_gone_is_a_503_and_is_reported(setup: Setup, engine: Upstream) -> None:
    setup.board.open("m", engine.address("m").model_copy(update={"port": 1}))
    answer = await setup.http.post("/v1/completions", json={"model": "m"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "engine-unreachable"
    assert setup.listener.unreached == ["m"]
    assert setup.board.traffic.snapshot()["m"].failed == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"{}", "must name a model"),
        (b'{"model": 3}', "must name a model"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
    ],
)
async def test_bad_json_is_a_400_in_openais_shape(setup: Setup, body: bytes, said: str) -> None:
    answer = await setup.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


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


async def test_bodies_in_hand_are_bounded_together(setup: Setup, engine: Upstream) -> None:
    async with UpstreamClient() as reached:
        plane = DataPlane(
            switchboard=setup.board,
            client=reached,
            names=Names(aliases={}),
            refusals=setup.metrics,
            clock=SystemClock(),
            max_body_bytes=100,
            max_held_bytes=150,
        )
        setup.board.know(["m"])
        sent: list[list[dict[str, Any]]] = []

        def request() -> asyncio.Task[None]:
            answers: list[dict[str, Any]] = []
            sent.append(answers)
            body = [{"type": "http.request", "body": b"x" * 100}]
            gone = asyncio.get_running_loop().create_future()

            async def receive() -> dict[str, Any]:
                return body.pop() if body else await gone

            async def send(message: Any) -> None:
                answers.append(message)

            path = "/v2/models/m/infer"
            scope = {"method": "POST", "path": path, "raw_path": path.encode(), "headers": []}
            scope["query_string"] = b""
            route = plane.route(scope)
            assert route is not None
            return asyncio.create_task(plane.answer(route, scope, receive, send))

        first = request()
        await until(lambda: setup.board.traffic.snapshot().get("m", Traffic()).pending == 1)
        await request()
        assert sent[1][0]["status"] == 503
        setup.board.open("m", engine.address("m", "generic"))
        await first
        await request()
        assert (sent[0][0]["status"], sent[2][0]["status"]) == (400, 400)


async def test_silent_engine_is_given_up(engine: Upstream) -> None:
    async with UpstreamClient(silence_timeout_s=0.05) as reached:
        with pytest.raises(DeadlineExceeded, match="did not answer within"):
            async with reached.send(
                engine.address("m"),
                method="POST",
                target="/x",
                headers=[(b"x-do", b"hold")],
                body=b"{}",
            ):
                raise AssertionError("it answered")


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
