"""Paths and bodies of requests, as clients send them and engines receive them."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup


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


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/tokenize", "/v1/rerank"])
async def test_other_openai_routes_pass_through(setup: Setup, engine: Upstream, path: str) -> None:
    setup.board.open("gpt2", engine.address("served"))
    answer = await setup.http.post(f"{path}?a=b%20c", json={"model": "gpt2", "x": 1})
    assert answer.json()["target"] == f"{path}?a=b%20c"
    assert json.loads(answer.json()["body"]) == {"model": "served", "x": 1}


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
