"""Many requests to more models than there is room for."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import engines
from tests.integration.service import Service
from tests.modelium.analysis.files import gguf_folder

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

REQUESTS, MODELS, SLOTS = 500, 6, 2
ENGINE = Path(__file__).parents[1] / "fakes" / "engine.py"
HELD_BYTES = 270 * 2**20
"""About what the estimate says, so that as many fit by measure as by estimate."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service with room for two models, without Prefect; the engines are fake processes."""
    command = tmp_path / "engine"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {ENGINE} "$@"\n')
    command.chmod(0o755)
    running = Service(
        tmp_path / "service",
        settings={
            "llama_cpp": {
                "enabled": True,
                "executable": str(command),
                "base_port": engines.free_port(MODELS),
            },
            "orchestration": {"cpu_memory_gib": 0.75},
            "gateway": {"max_waiting_per_model": REQUESTS},
            "prefect": {"enabled": False},
            # The fake engine notes its starts beside its model.
            "ingest": {"verify_at_load": False},
            "sandbox": {"writable": [str(tmp_path / "service" / "repository")]},
        },
    )
    try:
        running.start()
        yield running
    finally:
        running.down()
    assert running.remains() == []


def starts(service: Service, model: str) -> int:
    lines = (service.folder / "repository" / model / "starts.jsonl").read_text().splitlines()
    return len(lines)


def planned(service: Service, model: str) -> int:
    """Return how many loads of ``model`` were planned and not refused."""
    url = f"{service.gateway}/api/v1/models/{model}/explain"
    decisions = httpx.get(url, trust_env=False, timeout=60).json()["decisions"]
    assert not [d for d in decisions if d["outcome"] == "failed"], decisions
    return sum(
        action["action"] == "load" and action["model"] == model
        for decision in decisions
        if decision["outcome"] != "refused"
        for action in decision["plan"]["actions"]
    )


async def rush(service: Service, names: list[str]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=REQUESTS)
    async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as http:
        url = f"{service.gateway}/v1/completions"
        return await asyncio.gather(
            *(http.post(url, json={"model": name, "prompt": "hi"}) for name in names)
        )


def test_five_hundred_requests_to_six_models_over_two_slots_are_all_answered(
    service: Service,
) -> None:
    models = [f"m{number}" for number in range(MODELS)]
    for model in models:
        folder = gguf_folder(service.folder / "aside" / model)
        behaviour = {"answer_s": 0.02, "resident_bytes": HELD_BYTES}
        (folder / "fake.json").write_text(json.dumps(behaviour))
        folder.rename(service.incoming / model)
    settled = {"ready": SLOTS, "queued": MODELS - SLOTS}
    service.eventually(lambda: Counter(row["state"] for row in service.rows().values()) == settled)
    names = [models[number % MODELS] for number in range(REQUESTS)]
    answers = asyncio.run(rush(service, names))
    assert Counter(a.status_code for a in answers) == {200: REQUESTS}, service.log()
    assert [answer.json()["model"] for answer in answers] == names
    loads = {model: starts(service, model) for model in models}
    assert loads == {model: planned(service, model) for model in models}
    # Requests for all of them waited at once: a model that was loaded once is not needed again.
    assert sum(loads.values()) <= MODELS + SLOTS, loads
