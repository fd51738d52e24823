"""Every runtime through the whole service: drop, answer, unload, die, restart, end."""

from __future__ import annotations

import json
import os
import signal
import time
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
    """A model, and how to ask it."""

    runtime: str
    write: Callable[[Path], object]
    path: str
    body: dict[str, Any]

    def right(self, answer: dict[str, Any]) -> bool:
        match answer:
            case {"usage": {"completion_tokens": 4}, "choices": [_]}:
                return True
            case {"outputs": [{"shape": [1, 214], "data": scores}]}:
                return abs(sum(scores) - 1) < 1e-3
            case {"data": [{"embedding": vector}]}:
                return len(vector) == 384 and abs(sum(x * x for x in vector) - 1) < 1e-3
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
"""Loaded again in seconds; vLLM's starts are few."""


def ask(service: Service, model: str) -> httpx.Response:
    case = CASES[model]
    body = case.body if "inputs" in case.body else {"model": model, **case.body}
    return httpx.post(service.gateway + case.path, json=body, timeout=300, trust_env=False)


def answers(service: Service, model: str) -> None:
    answer = ask(service, model)
    assert answer.status_code == 200, (answer.text, service.log())
    assert CASES[model].right(answer.json()), answer.text[:500]


def processes(service: Service, model: str) -> list[int]:
    """What serves ``model``: its engine, Triton's server, its Ray replica."""
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
    """A service with all four runtimes. Only the first start has nothing to find."""
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
        yield service
    finally:
        service.down()
    assert service.remains() == []


def test_models_dropped_together_answer_each_on_its_runtime(machine: Service) -> None:
    for model, case in CASES.items():
        case.write(machine.folder / "aside" / model)
    for model in CASES:
        os.rename(machine.folder / "aside" / model, machine.incoming / model)
    for model, case in CASES.items():
        row = machine.until(model, "ready", LOAD_S)
        assert row["runtime"] == case.runtime, row["reason"]
        answers(machine, model)


def test_memory_is_booked_and_seen_for_each(machine: Service) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rows = machine.rows()
        if all(row["resident_bytes"] for row in rows.values()):
            break
        time.sleep(0.5)
    for model in CASES:
        assert 10 * 2**20 < rows[model]["resident_bytes"] <= rows[model]["booked_bytes"], model


def test_a_restarted_service_finds_its_models_serving(machine: Service) -> None:
    before = {model: processes(machine, model) for model in CASES}
    machine.stop()
    machine.start()
    for model in CASES:
        assert machine.row(model)["state"] == "ready"
        answers(machine, model)
        assert processes(machine, model) == before[model]


@pytest.mark.parametrize("model", [m for m in QUICK if m != "gemma"])
def test_an_unloaded_model_is_loaded_by_a_request(machine: Service, model: str) -> None:
    assert machine.cli("unload", model)["state"] == "done"
    assert machine.row(model)["state"] == "unloaded"
    answers(machine, model)
    assert machine.row(model)["runtime"] == CASES[model].runtime


@pytest.mark.parametrize("model", CASES)
def test_a_model_whose_runtime_dies_is_noticed_and_loaded_again(
    machine: Service, model: str
) -> None:
    machine.until(model, "ready", LOAD_S)
    killed = processes(machine, model)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while machine.row(model)["state"] == "ready" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "loaded again" in machine.row(model)["reason"] or (
        machine.row(model)["state"] == "loading"
    ), (machine.row(model), machine.log())
    machine.until(model, "ready", LOAD_S)
    answers(machine, model)
    assert not set(killed) & set(processes(machine, model))


def test_what_is_always_loaded_cannot_be_unloaded(machine: Service) -> None:
    machine.until("gemma", "ready")
    assert machine.cli("unload", "gemma", code=1)["state"] == "failed"
    assert machine.row("gemma")["state"] == "ready"


def test_down_ends_all_and_the_next_start_loads_what_is_always_loaded(machine: Service) -> None:
    told = machine.down()
    assert told["stopped"] is True
    assert set(told["ended"]) == set(CASES)
    assert machine.remains() == []
    machine.start()
    machine.until("gemma", "ready")
    answers(machine, "gemma")
    assert {machine.row(m)["state"] for m in CASES if m != "gemma"} == {"unloaded"}
