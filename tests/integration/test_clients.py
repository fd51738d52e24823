"""Official clients against real runtimes through the service, cold and warm.

The table of docs/gateway.md: client × route × runtime. vLLM's rows are in test_runtimes.py.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http
from langchain_openai import ChatOpenAI

from tests import engines, samples
from tests.integration.service import Service

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("clients"),
]

LOAD_S = 300.0
MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
CHAT = {"model": "gemma", "messages": MESSAGES, "max_tokens": 8}


def openai_of(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.gateway}/v1", api_key="any", timeout=LOAD_S)


def curl(*arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "300"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=320)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def openai_chat(service: Service) -> None:
    with openai_of(service) as client:
        answer = client.chat.completions.create(model="gemma", messages=MESSAGES, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage is not None and answer.usage.completion_tokens <= 8


def openai_stream(service: Service) -> None:
    with openai_of(service) as client:
        stream = client.chat.completions.create(
            model="gemma", messages=MESSAGES, max_tokens=8, stream=True
        )
        chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    assert "".join(chunk.delta.content or "" for chunk in chunks)
    assert chunks[-1].finish_reason in ("stop", "length")


def openai_completions(service: Service) -> None:
    with openai_of(service) as client:
        answer = client.completions.create(model="gemma", prompt="Once upon", max_tokens=4)
    assert answer.choices[0].text


def openai_responses(service: Service) -> None:
    with openai_of(service) as client:
        answer = client.responses.create(model="gemma", input="Say hello.", max_output_tokens=16)
    assert answer.output


def openai_embeddings(service: Service) -> None:
    with openai_of(service) as client:
        answer = client.embeddings.create(model="minilm", input=["a sentence", "another one"])
    assert [len(one.embedding) for one in answer.data] == [384, 384]


def langchain_chat(service: Service) -> None:
    chat = ChatOpenAI(
        model="gemma",
        base_url=f"{service.gateway}/v1",
        api_key="any",
        max_completion_tokens=8,
        timeout=LOAD_S,
    )
    assert chat.invoke("Say hello.").content
    assert "".join(str(chunk.content) for chunk in chat.stream("Say hello."))


def curl_chat(service: Service) -> None:
    answer = json.loads(curl(f"{service.gateway}/v1/chat/completions", "-d", json.dumps(CHAT)))
    assert answer["choices"][0]["message"]["content"]


def curl_stream(service: Service) -> None:
    body = json.dumps({**CHAT, "stream": True})
    url = f"{service.gateway}/models/gemma/v1/chat/completions"
    events = curl("--no-buffer", url, "-d", body).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:2])


def curl_tokenize(service: Service) -> None:
    body = json.dumps({"model": "gemma", "content": "hello"})
    assert json.loads(curl(f"{service.gateway}/tokenize", "-d", body))["tokens"]


def triton_infer(service: Service) -> None:
    with tritonclient.http.InferenceServerClient(
        service.gateway.removeprefix("http://"), network_timeout=LOAD_S
    ) as client:
        given = tritonclient.http.InferInput("bytes", [1, 2048], "INT32")
        given.set_data_from_numpy(np.full((1, 2048), 32, np.int32))
        answer = client.infer("magika", [given])
        name = client.get_model_metadata("magika")["outputs"][0]["name"]
        assert client.is_model_ready("magika")
        assert client.get_model_config("magika")["name"]
    scores = answer.as_numpy(name)
    assert scores is not None
    assert abs(float(scores.sum()) - 1) < 1e-3


def curl_infer(service: Service) -> None:
    given = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [32] * 2048}
    url = f"{service.gateway}/v2/models/magika/versions/1/infer"
    answer = json.loads(curl(url, "-d", json.dumps({"inputs": [given]})))
    assert abs(sum(answer["outputs"][0]["data"]) - 1) < 1e-3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table."""

    model: str
    runtime: str
    ask: Callable[[Service], None]


ROWS = [
    *(
        Row(model="gemma", runtime="llama_cpp", ask=ask)
        for ask in (
            openai_chat,
            openai_stream,
            openai_completions,
            openai_responses,
            langchain_chat,
            curl_chat,
            curl_stream,
            curl_tokenize,
        )
    ),
    Row(model="minilm", runtime="ray_serve", ask=openai_embeddings),
    Row(model="magika", runtime="triton", ask=triton_infer),
    Row(model="magika", runtime="triton", ask=curl_infer),
]
WRITE: dict[str, Callable[[Path], object]] = {
    "gemma": engines.gemma_gguf,
    "minilm": samples.minilm,
    "magika": samples.magika_onnx,
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with three runtimes and one model on each, without Prefect."""
    folder = tmp_path_factory.mktemp("clients")
    service = Service(
        folder,
        settings={
            "llama_cpp": engines.llama_cpp() | {"default_settings": {"max_model_len": 512}},
            "triton": engines.triton(folder / "triton-work"),
            "ray_serve": engines.ray_serve(torch=True),
            "prefect": {"enabled": False},
        },
    )
    try:
        service.start()
        for model, write in WRITE.items():
            service.put_in(model, write=write)
        for model in WRITE:
            service.until(model, "ready", LOAD_S)
        yield service
    finally:
        service.down()
    assert service.remains() == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.ask.__name__}-{row.runtime}")
def test_a_client_is_answered_cold_and_warm(machine: Service, row: Row) -> None:
    url = f"{machine.gateway}/api/v1/models/{row.model}/unload?wait=60"
    assert httpx.post(url, timeout=90, trust_env=False).json()["state"] == "done"
    assert machine.row(row.model)["state"] == "unloaded"
    row.ask(machine)
    loaded = machine.row(row.model)
    assert (loaded["state"], loaded["runtime"]) == ("ready", row.runtime)
    row.ask(machine)
    assert machine.row(row.model)["since"] == loaded["since"]


def test_ray_serve_answers_tritons_client_cold_and_warm(service: Service) -> None:
    service.put_in("ray-v2", write=samples.tiny_onnx)
    service.until("ray-v2", "ready")
    service.cli("unload", "ray-v2")
    given = tritonclient.http.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32))
    with tritonclient.http.InferenceServerClient(
        service.gateway.removeprefix("http://"), network_timeout=LOAD_S
    ) as client:
        for _ in range(2):
            answer = client.infer("ray-v2", [given])
            name = answer.get_response()["outputs"][0]["name"]
            assert answer.as_numpy(name).tolist() == [[10.0, 10.0, 10.0]]
    assert service.row("ray-v2")["runtime"] == "ray_serve"
