"""The seed's three flows, on real engines and a fake driver that shows GPUs.

The engines run on the CPU: what they would hold on a GPU is written into the fake driver's table
by process id, so that attribution, eviction and the release of memory are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import engines
from tests.fakes import nvml, tiny_llama
from tests.fakes.nvml import GIB, FakeGpu, FakeNvml
from tests.integration.service import Service, laid_over

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("runtimes"),
]

Start = Callable[[dict[str, Any]], Service]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(library: Path, tmp_path: Path) -> FakeNvml:
    fake = FakeNvml(library=library, table=tmp_path / "nvml-table")
    fake.write()
    return fake


@pytest.fixture
def start(driver: FakeNvml, tmp_path: Path) -> Iterator[Start]:
    """Start services that see the driver's GPUs; they end with the test and leave nothing behind."""
    begun: list[Service] = []

    def up(settings: dict[str, Any]) -> Service:
        settings = laid_over({"prefect": {"enabled": False}}, settings)
        service = Service(tmp_path / "service", settings=settings, environ=driver.environment())
        begun.append(service)
        service.start()
        return service

    yield up
    for service in begun:
        service.down()
        assert service.remains() == []


def pid_of(service: Service, runtime: str, model: str) -> int:
    return int(json.loads((service.state / runtime / f"{model}.json").read_text())["pid"])


def complete(service: Service, model: str) -> None:
    body = {"model": model, "prompt": "hello", "max_tokens": 2}
    url = f"{service.gateway}/v1/completions"
    answer = httpx.post(url, json=body, timeout=300, trust_env=False)
    assert answer.status_code == 200, (answer.text, service.log())


def states(service: Service) -> dict[str, str]:
    return {name: row["state"] for name, row in service.rows().items()}


def test_a_dropped_gpt2_is_loaded_by_vllm_on_the_gpu_with_room(
    driver: FakeNvml, start: Start
) -> None:
    driver.add(FakeGpu(uuid="GPU-0", total=24 * GIB, used=23 * GIB))
    driver.add(FakeGpu(uuid="GPU-1", total=80 * GIB, used=60 * GIB))
    vllm = engines.vllm()
    vllm["default_settings"] = {"dtype": "bfloat16", "enforce_eager": True, "max_batch_size": 32}
    service = start({"vllm": vllm})
    service.put_in("gpt2", write=tiny_llama.write_gpt2)
    row = service.until("gpt2", "ready", 400)
    assert row["runtime"] == "vllm"
    assert row["devices"] == ["1"]
    explained = service.cli("explain", "gpt2")
    (action,) = explained["decisions"][0]["plan"]["actions"]
    assert action["settings"]["max_num_seqs"] == 32
    driver.occupy("GPU-1", pid_of(service, "vllm", "gpt2"), row["booked_bytes"])
    complete(service, "gpt2")
    wanted = 'modelium_model_qps{gpu="1",model="gpt2",runtime="vllm"}'
    service.eventually(lambda: wanted in service.exposed())
    assert (service.folder / "repository" / "gpt2" / "config.json").exists()


def test_under_memory_pressure_the_idle_model_is_unloaded_and_a_new_one_loaded(
    driver: FakeNvml, start: Start
) -> None:
    driver.add(FakeGpu(uuid="GPU-0", total=40 * GIB))
    service = start({"llama_cpp": engines.llama_cpp()})
    trio = ("model-a", "model-b", "model-c")
    service.put_in(*trio, write=engines.gemma_gguf)
    for model in trio:
        service.until(model, "ready")
    for model in ("model-b", "model-c", "model-c"):
        complete(service, model)
    held = {"model-a": 15 * GIB, "model-b": 12 * GIB, "model-c": 11 * GIB}
    for model, bytes_ in held.items():  # 38 of 40 GiB: 95 %
        driver.occupy("GPU-0", pid_of(service, "llama_cpp", model), bytes_)
    row = service.until("model-a", "unloaded")
    assert "95% full (max_gpu_memory_utilization is 90%)" in row["reason"]
    service.put_in("model-d", write=engines.gemma_gguf)
    service.until("model-d", "ready")
    for model in ("model-b", "model-c", "model-d"):
        assert service.row(model)["state"] == "ready"
        complete(service, model)


def _production(folder: Path) -> None:
    """Write a model whose owner says that it is production, as far as the operator allows."""
    engines.gemma_gguf(folder)
    (folder / "modelium.toml").write_text('priority = "high"\n')


def test_of_five_models_the_two_best_are_loaded_and_the_others_are_queued(
    driver: FakeNvml, start: Start
) -> None:
    room = int(1.6 * GIB)  # for one model on each
    for number in range(2):
        driver.add(FakeGpu(uuid=f"GPU-{number}", total=room, used=room))
    service = start(
        {
            "llama_cpp": engines.llama_cpp(),
            "orchestration": {"policies": {"high_priority_teams": ["research"]}},
            "teams": {"shop": {"priority_ceiling": "high"}, "research": {}},
        }
    )
    production = {"production-1", "production-2"}
    five = {"experiment-1", "experiment-2", "new", *production}
    service.put_in("experiment-1", "experiment-2", write=engines.gemma_gguf)
    service.put_in("new", write=engines.gemma_gguf, team="research")
    service.put_in(*sorted(production), write=_production, team="shop")
    service.eventually(lambda: states(service) == dict.fromkeys(five, "queued"))
    for number in range(2):  # another job ends
        driver.change(f"GPU-{number}", used=0)
    for model in sorted(production):
        service.until(model, "ready")
    assert sorted(service.row(model)["devices"] for model in production) == [["0"], ["1"]]
    assert {service.row(model)["state"] for model in five - production} == {"queued"}
    assert service.cli("unload", "production-1")["state"] == "done"
    service.until("new", "ready")
    for model in ("production-2", "new"):
        complete(service, model)
    ready = {name for name, row in service.rows().items() if row["state"] == "ready"}
    assert ready == {"production-2", "new"}, "experiments come after"
