"""The seed's configuration block, with paths and ports replaced: one repository for all runtimes.

Its flows are shown in `test_seed_flows`. What belongs to this machine is set by environment
variables: the ports of what the block does not name, and where the engines are installed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelium.analysis import digest
from modelium.analysis.readers.laid import MARKER
from tests import engines, samples
from tests.fakes import tiny_llama
from tests.integration.service import Service, eventually

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("runtimes"),
]

SEED = Path(__file__).parents[1] / "data" / "seed_configuration.md"
LOAD_S = 400.0
SPACES = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [32] * 2048}


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Stand for those of the block."""

    triton: int
    vllm: int
    ray: int


def block(models: Path, ports: Ports) -> str:
    """Return the seed's block for the folder ``models`` instead of /models."""
    found = re.search(r"```yaml\n(.*?)```", SEED.read_text(), re.DOTALL)
    assert found
    text = found[1].replace("/models/", f"{models}/")
    numbers = {"8003": ports.triton, "8100": ports.vllm, "8002": ports.ray, "9090": 0}
    for old, new in numbers.items():
        text = re.sub(rf"(:\s*|localhost:){old}\b", rf"\g<1>{new}", text)
    return text


@contextmanager
def users_triton(repository: Path, work: Path, port: int) -> Iterator[None]:
    """Triton as the seed's user runs it: over the repository of all runtimes."""
    work.mkdir()
    options = {
        "--model-repository": repository,
        "--model-control-mode": "explicit",
        "--http-address": "127.0.0.1",
        "--http-port": port,
        "--grpc-address": "127.0.0.1",
        "--grpc-port": port + 1,
        "--metrics-port": port + 2,
    }
    command = engines.triton(work)["command"]
    log = work / "triton.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, *(f"{name}={value}" for name, value in options.items())],
            stdout=output,
            stderr=output,
        )
    live = f"http://127.0.0.1:{port}/v2/health/live"

    def answers() -> bool:
        try:
            return httpx.get(live, trust_env=False, timeout=20).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(answers, shown=log.read_text)
        yield
    finally:
        server.kill()
        server.wait(60)


def ask(service: Service, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{service.gateway}{path}", json=body, timeout=300, trust_env=False)
    assert answer.status_code == 200, (answer.text, service.log())
    return dict(answer.json())


def test_the_seeds_block_serves_three_drops_from_one_repository(tmp_path: Path) -> None:
    models = tmp_path / "models"
    repository = models / "repository"
    repository.mkdir(parents=True)
    ports = Ports(triton=engines.free_port(3), vllm=engines.free_port(4), ray=engines.free_port())
    vllm = Path(engines.vllm()["executable"]).parent
    environ = {
        "PATH": f"{os.environ['PATH']}:{vllm}",
        "VLLM_CACHE_ROOT": str(engines.kept() / "vllm"),
        "MODELIUM_GATEWAY__PORT": "0",
        "MODELIUM_PREFECT__PORT": "0",
        "MODELIUM_INGEST__QUIET_PERIOD_SECONDS": "0.5",
        "MODELIUM_RAY_SERVE__PYTHON": str(engines.environment("replica") / "bin/python"),
        "MODELIUM_VLLM__DEFAULT_SETTINGS__enforce_eager": "true",
    }
    service = Service(models, settings={}, environ=environ)
    service.config.write_text(block(models, ports))
    with users_triton(repository, tmp_path / "triton", ports.triton):
        try:
            service.start()
            service.put_in("production-gpt", write=tiny_llama.write_gpt2)
            service.put_in("magika", write=samples.magika_onnx)
            service.put_in("minilm", write=samples.minilm)
            rows = {
                name: service.until(name, "ready", LOAD_S)
                for name in ("magika", "minilm", "production-gpt")
            }
            assert {name: row["runtime"] for name, row in rows.items()} == {
                "magika": "triton",
                "minilm": "ray_serve",
                "production-gpt": "vllm",
            }
            body: dict[str, Any] = {"prompt": "hello", "max_tokens": 4, "ignore_eos": True}
            said = ask(service, "/v1/completions", {"model": "production-gpt", **body})
            assert said["usage"]["completion_tokens"] == 4
            said = ask(service, "/v1/embeddings", {"model": "minilm", "input": "a sentence"})
            assert len(said["data"][0]["embedding"]) == 384
            said = ask(service, "/v2/models/magika/infer", {"inputs": [SPACES]})
            assert abs(sum(said["outputs"][0]["data"]) - 1) < 1e-3

            served = repository / "magika"
            assert (served / "1" / "model.onnx").samefile(served / "model.onnx")
            assert (served / MARKER).exists()
            samples.magika_onnx(tmp_path / "drop")
            assert digest(served) == digest(tmp_path / "drop")

            assert service.cli("unload", "magika")["state"] == "done"
            assert [path.name for path in served.iterdir()] == ["model.onnx"]
            said = ask(service, "/v2/models/magika/infer", {"inputs": [SPACES]})
            assert abs(sum(said["outputs"][0]["data"]) - 1) < 1e-3, "a request loads it again"
        finally:
            service.down()
    assert service.remains() == []
