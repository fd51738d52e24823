"""Each runtime behind the whole service: drops, requests, unloads, crashes, restarts, the end.

Each test brings its models up itself: they may run alone and in any order.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtimes.process import proc
from tests import engines, samples
from tests.fakes import tiny_llama
from tests.integration.service import Service

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("runtimes"),
]

LOAD_S = 400.0
"""vLLM's start was seen to take 138 s on a loaded machine."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, its runtime, and a request to it."""

    runtime: str
    write: Callable[[Path], object]
    path: str
    body: dict[str, Any]

    def right(self, answer: dict[str, Any]) -> bool:
        match answer:
            case {"usage": {"completion_tokens": 4}, "choices": [_]}:
                return True
            case {"outputs": [{"shape": [1, 214], "data": scores}]}:
                return bool(abs(sum(scores) - 1) < 1e-3)
            case {"data": [{"embedding": vector}]}:
                return bool(len(vector) == 384 and abs(sum(x * x for x in vector) - 1) < 1e-3)
        return False


SPACES = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [32] * 2048}
CASES = {
    "tiny-llama": Case(
        runtime="vllm",
        write=tiny_llama.write,
        path="/v1/completions",
        body={"prompt": "hello", "max_tokens": 4, "ignore_eos": True},
    ),
    "gemma": Case(
        runtime="llama_cpp",
        write=engines.gemma_gguf,
        path="/v1/completions",
        body={"prompt": "Once upon a time", "max_tokens": 4},
    ),
    "magika": Case(
        runtime="triton",
        write=samples.magika_onnx,
        path="/v2/models/magika/infer",
        body={"inputs": [SPACES]},
    ),
    "minilm": Case(
        runtime="ray_serve",
        write=samples.minilm,
        path="/v1/embeddings",
        body={"input": "a sentence"},
    ),
}
QUICK = [name for name in CASES if name != "tiny-llama"]
"""Load again in seconds; vLLM takes minutes."""


def ask(service: Service, model: str) -> httpx.Response:
    case = CASES[model]
    body = case.body if "inputs" in case.body else {"model": model, **case.body}
    return httpx.post(service.gateway + case.path, json=body, timeout=300, trust_env=False)


def answers(service: Service, model: str) -> None:
    answer = ask(service, model)
    assert answer.status_code == 200, (answer.text, service.log())
    assert CASES[model].right(answer.json()), answer.text[:500]


def processes(service: Service, model: str) -> list[int]:
    """Return the pids that serve ``model``: its engine, Triton's server or its Ray replica."""
    runtime = CASES[model].runtime
    if runtime == "ray_serve":
        token = str(service.state / "ray" / "token")
        return [
            pid
            for pid, process in proc.snapshot().items()
            if process.alive
            and proc.has_variable(pid, "MODELIUM_MODEL", model)
            and proc.has_variable(pid, "RAY_AUTH_TOKEN_PATH", token)
        ]
    folder, name = ("triton-server", "tritonserver") if runtime == "triton" else (runtime, model)
    return [int(json.loads((service.state / folder / f"{name}.json").read_text())["pid"])]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with all four runtimes; the models are dropped together at its first start."""
    folder = tmp_path_factory.mktemp("machine")
    vllm = engines.vllm()
    vllm["default_settings"] |= {"max_model_len": 256, "max_num_seqs": 4}
    service = Service(
        folder,
        settings={
            "vllm": vllm,
            "llama_cpp": engines.llama_cpp() | {"default_settings": {"max_model_len": 512}},
            "triton": engines.triton(folder / "triton-work"),
            "ray_serve": engines.ray_serve(torch=True),
            "orchestration": {"policies": {"always_loaded": ["gemma"]}},
        },
    )
    try:
        service.start()
        for model, case in CASES.items():
            case.write(folder / "aside" / model)
        for model in CASES:
            os.rename(folder / "aside" / model, service.incoming / model)
        for model in CASES:
            service.until(model, "ready", LOAD_S)
        yield service
    finally:
        service.down()
    assert service.remains() == []


def serve(machine: Service, *models: str) -> None:
    """Have ``models`` ready, whatever the test before left."""
    for model in models:
        if machine.row(model)["state"] == "unloaded":
            machine.cli("load", model)
        machine.until(model, "ready", LOAD_S)


@pytest.mark.parametrize("model", CASES)
def test_a_dropped_model_answers_on_its_runtime(machine: Service, model: str) -> None:
    serve(machine, model)
    row = machine.row(model)
    assert row["runtime"] == CASES[model].runtime, row["reason"]
    answers(machine, model)


@pytest.mark.parametrize("model", CASES)
def test_memory_is_booked_and_measured(machine: Service, model: str) -> None:
    serve(machine, model)
    machine.eventually(lambda: machine.row(model)["resident_bytes"])
    row = machine.row(model)
    assert 10 * 2**20 < row["resident_bytes"] <= row["booked_bytes"]


def test_a_restarted_service_finds_its_models_serving(machine: Service) -> None:
    serve(machine, *CASES)
    before = {model: processes(machine, model) for model in CASES}
    machine.stop()
    machine.start()
    for model in CASES:
        assert machine.row(model)["state"] == "ready"
        answers(machine, model)
        assert processes(machine, model) == before[model]


@pytest.mark.parametrize("model", [m for m in QUICK if m != "gemma"])
def test_an_unloaded_model_is_loaded_by_a_request(machine: Service, model: str) -> None:
    serve(machine, model)
    assert machine.cli("unload", model)["state"] == "done"
    assert machine.row(model)["state"] == "unloaded"
    answers(machine, model)
    assert machine.row(model)["runtime"] == CASES[model].runtime


@pytest.mark.parametrize("model", CASES)
def test_a_model_whose_runtime_dies_is_loaded_again(machine: Service, model: str) -> None:
    serve(machine, model)
    since = machine.row(model)["since"]
    killed = processes(machine, model)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)

    def returned() -> bool:
        row = machine.row(model)
        return bool(row["state"] == "ready" and row["since"] > since)

    machine.eventually(returned, LOAD_S)
    answers(machine, model)
    assert not set(killed) & set(processes(machine, model))
    url = f"{machine.gateway}/api/v1/models/{model}/explain"
    events = httpx.get(url, timeout=60, trust_env=False).json()["events"]
    assert any(e["kind"] == "model.lost" and e["at"] > since for e in events), events


def test_a_model_that_is_always_loaded_cannot_be_unloaded(machine: Service) -> None:
    serve(machine, "gemma")
    assert machine.cli("unload", "gemma", code=1)["state"] == "failed"
    assert machine.row("gemma")["state"] == "ready"


def test_down_ends_all_and_the_next_start_loads_what_is_always_loaded(machine: Service) -> None:
    serve(machine, *CASES)
    ended = machine.down()
    assert ended["stopped"] is True
    assert set(ended["ended"]) == set(CASES)
    assert machine.remains() == []
    machine.start()
    machine.until("gemma", "ready")
    answers(machine, "gemma")
    assert {machine.row(m)["state"] for m in CASES if m != "gemma"} == {"unloaded"}
