"""Versions are switched under continuous requests, of which none is refused."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import engines
from tests.integration.service import Service
from tests.modelium.analysis.files import gguf_folder

pytestmark = [pytest.mark.real, pytest.mark.timeout(500)]

CLIENTS = 3
ENGINE = Path(__file__).parents[1] / "fakes" / "engine.py"


def fake(folder: Path) -> dict[str, Any]:
    """Configure llama.cpp's driver with fake engine processes."""
    command = folder / "engine"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {ENGINE} "$@"\n')
    command.chmod(0o755)
    return {"enabled": True, "executable": str(command), "base_port": engines.free_port(8)}


def real(folder: Path) -> dict[str, Any]:
    return engines.llama_cpp()


@pytest.fixture(params=[fake, real], ids=["fake", "llama.cpp"])
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    running = Service(
        tmp_path / "service",
        settings={
            "llama_cpp": request.param(tmp_path),
            "ingest": {"trial_requests": 10},
            "prefect": {"enabled": False},
        },
    )
    try:
        running.start()
        yield running
    finally:
        running.down()
    assert running.remains() == []


@contextmanager
def clients(service: Service) -> Iterator[list[httpx.Response]]:
    """Send requests one after the other from `CLIENTS` clients while the body runs."""
    ended, answers = threading.Event(), list[httpx.Response]()

    def client() -> None:
        body = {"model": "m", "prompt": "Once upon", "max_tokens": 2}
        with httpx.Client(timeout=120, trust_env=False) as http:
            while not ended.is_set():
                answers.append(http.post(f"{service.gateway}/v1/completions", json=body))

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def version(number: int, is_real: bool, **behaviour: Any) -> Callable[[Path], object]:
    """Return what writes a version of its own content."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        if is_real and not behaviour:
            engines.gemma_gguf(folder)
        elif is_real:
            gguf_folder(folder)  # llama.cpp refuses it: most of its tensors are missing
        else:
            gguf_folder(folder)
            (folder / "fake.json").write_text(json.dumps({"answer_s": 0.02, **behaviour}))
        (folder / "README.md").write_text(f"version {number}")

    return write


def events(service: Service) -> list[str]:
    url = f"{service.gateway}/api/v1/models/m/explain"
    found = httpx.get(url, trust_env=False, timeout=60).json()["events"]
    return [event["kind"] for event in found]


def test_no_request_is_refused_while_versions_come_and_fail(
    service: Service, request: pytest.FixtureRequest
) -> None:
    is_real = "llama.cpp" in request.node.name
    service.put_in("m", write=version(1, is_real))
    service.until("m", "ready")
    with clients(service) as answers:
        service.put_in("m", write=version(2, is_real))
        service.eventually(lambda: {"model.switched", "model.rolled-back"} & set(events(service)))
        assert "model.switched" in events(service), service.log()
        service.eventually(lambda: set(service.rows()) == {"m"})  # version 1 is unloaded
        assert service.row("m")["version"] == 2
        service.put_in("m", write=version(3, is_real, exit_code=1))
        service.eventually(lambda: "model.rolled-back" in events(service))
        assert service.row("m")["version"] == 2
        before = len(answers)
        service.eventually(lambda: len(answers) > before + CLIENTS)
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}, service.log()
    assert len(answers) > 10
    if not is_real:  # llama.cpp's answers name the file
        assert {answer.json()["model"] for answer in answers} == {"m"}
    listed = service.cli("versions", "m")
    assert [row["version"] for row in listed] == [3, 2, 1]
    service.cli("rm", "m", "--yes")
    assert service.rows() == {}
    assert [entry["model"] for entry in service.cli("trash", "ls")] == ["m"] * len(listed)
