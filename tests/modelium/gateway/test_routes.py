"""Paths and bodies of requests, as clients send them and engines receive them."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup, Start

pytestmark = pytest.mark.slow


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
        (
            b'{"model": "other", "model": "gpt2"}',
            b'{"model": "ser\\"ved", "model": "ser\\"ved"}',
        ),
        ('{"model": "gpt2"}'.encode("utf-16"), b'{"model": "ser\\"ved"}'),
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


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/completions", "/v1/responses", "/tokenize", "/v1/rerank", "/rerank", "/v2/rerank"),
        *("/score", "/classify", "/pooling", "/v1/audio/speech", "/v1/images/generations"),
    ],
)
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
    said = answer.json()["error"]["message"]
    assert said == "m does not serve /v1/completions; it offers /v2/models/m/infer"
    assert setup.board.traffic.snapshot()["m"].failed == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"{}", "must name a model"),
        (b'{"model": 3}', "must name a model"),
        (b"[" * 50_000, "not valid JSON"),
        (b"[" * 100_000, "must be a JSON object"),
        (b"\xff\xfe\xff", "not valid JSON"),
    ],
)
async def test_bad_json_is_a_400_in_openais_shape(setup: Setup, body: bytes, said: str) -> None:
    answer = await setup.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


FORM = (
    b'--b0\r\nContent-Disposition: form-data; name="file"; filename="model.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF\r\n\r\n--b\x00\r\n"
    b'--b0\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--b0--\r\n'
)
KIND = {"content-type": "multipart/form-data; boundary=b0"}


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
async def test_the_model_of_a_form_is_read_and_renamed(
    setup: Setup, engine: Upstream, path: str
) -> None:
    setup.board.open("whisper", engine.address("whisper"))
    await setup.http.post(path, content=FORM, headers=KIND)
    setup.board.open("whisper", engine.address("engines-name"))
    await setup.http.post(path, content=FORM, headers=KIND)
    await setup.http.post(f"/models/whisper{path}", content=FORM, headers=KIND)
    assert [seen.target for seen in engine.seen] == [path] * 3
    assert all(seen.headers["content-type"] == KIND["content-type"] for seen in engine.seen)
    assert engine.seen[0].body == FORM
    assert engine.seen[1].body == engine.seen[2].body == FORM.replace(b"whisper", b"engines-name")


async def test_openais_client_transcribes_under_an_alias(start: Start, engine: Upstream) -> None:
    async with start(aliases={"whisper-1": "small"}) as setup:
        setup.board.open("small", engine.address("small"))
        async with openai.AsyncOpenAI(base_url=f"{setup.gateway.url}/v1", api_key="any") as client:
            await client.audio.transcriptions.create(
                model="whisper-1", file=("speech.wav", b"RIFF\r\n--\x00"), language="en"
            )
    (seen,) = engine.seen
    assert b"\r\n\r\nsmall\r\n--" in seen.body and b"whisper-1" not in seen.body
    assert b"RIFF\r\n--\x00\r\n--" in seen.body
    assert seen.headers["content-length"] == str(len(seen.body))


@pytest.mark.parametrize(
    "body", [b"", b'{"model": "m"}', FORM[:-40], FORM.replace(b'"model"', b'"other"')]
)
async def test_a_form_that_names_no_model_is_a_400(setup: Setup, body: bytes) -> None:
    answer = await setup.http.post("/v1/audio/transcriptions", content=body, headers=KIND)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_form_beyond_the_bound_is_a_413(start: Start) -> None:
    async with start(max_body_bytes=100) as setup:
        answer = await setup.http.post("/v1/audio/transcriptions", content=FORM, headers=KIND)
        assert answer.status_code == 413


async def test_a_path_that_the_model_lacks_is_told_with_those_it_has(
    setup: Setup, engine: Upstream
) -> None:
    address = engine.address("m", "openai", "kserve").model_copy(
        update={"paths": frozenset({"/v1/embeddings"})}
    )
    setup.board.open("m", address)
    assert (await setup.http.post("/v1/embeddings", json={"model": "m"})).status_code == 200
    answer = await setup.http.post("/v1/chat/completions", json={"model": "m"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "m does not serve /v1/chat/completions; it offers /v1/embeddings, /v2/models/m/infer"
    )
    assert len(engine.seen) == 1


@pytest.mark.parametrize(
    ("path", "sent", "expected"),
    [
        ("/v1/chat/completions", b' { "model": "m", "x": 1e400 }', b' {"max_tokens":7, "model": "m", "x": 1e400 }'),
        ("/v1/chat/completions", b'{"model":"m","max_completion_tokens":9}', None),
        ("/v1/completions", b'{"model":"m","max_tokens":9}', None),
        ("/v1/completions", b'{"model":"m","max_tokens":null}', b'{"model":"m","max_tokens":7}'),
        ("/v1/responses", b'{"model":"m"}', b'{"max_output_tokens":7,"model":"m"}'),
        ("/v1/embeddings", b'{"model":"m"}', None),
        ("/v1/completions", b'{"model":"own"}', b'{"max_tokens":3,"model":"own"}'),
    ],
)  # fmt: skip
async def test_a_request_without_a_limit_gets_the_default(
    start: Start, engine: Upstream, path: str, sent: bytes, expected: bytes | None
) -> None:
    async with start(default_max_tokens=7, max_tokens={"own": 3}) as setup:
        for model in ("m", "own"):
            setup.board.open(model, engine.address(model))
        await setup.http.post(path, content=sent)
    assert engine.seen[0].body == (sent if expected is None else expected)


async def test_without_a_default_the_engines_limit_applies(setup: Setup, engine: Upstream) -> None:
    setup.board.open("m", engine.address("m"))
    await setup.http.post("/v1/completions", content=b'{"model":"m"}')
    assert engine.seen[0].body == b'{"model":"m"}'
