"""vLLM drivers over the fake engine, for faults that a real engine cannot be made to have."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from modelium.clock import SystemClock
from modelium.config import Vllm as VllmSection
from modelium.ports import Clock, Loaded
from runtimes.engines.driver import EngineDriver
from runtimes.vllm.driver import vllm_driver
from tests.runtimes.requests import Inventory

ENGINE = Path(__file__).parents[1] / "fakes" / "engine.py"


class Brisk(SystemClock):
    """The real clock with pauses of a tenth: fake engines are ready sooner than real ones."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 10)


class Skipping(Brisk):
    """Its monotonic time may be moved forward at once, too."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped


Make = Callable[..., EngineDriver]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Builds drivers over one state directory, as restarts of Modelium would."""
    command = tmp_path / "vllm-command"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {ENGINE} "$@"\n')
    command.chmod(0o755)
    made: list[EngineDriver] = []

    def build(
        inventory: object = None,
        no_progress_s: float = 300.0,
        clock: Clock | None = None,
        **section: object,
    ) -> EngineDriver:
        config = VllmSection.model_validate(
            {"enabled": True, "executable": str(command), "base_port": 0} | section
        )
        driver = vllm_driver(
            config=config,
            state_directory=tmp_path,
            clock=clock or Brisk(),
            devices=inventory or Inventory(),  # type: ignore[arg-type]
            no_progress_s=no_progress_s,
        )
        made.append(driver)
        return driver

    yield build
    last = build()
    for running in await last.discover({}):
        await last.unload(running.model, handle=running.handle, grace_s=0)
    for driver in made:
        await driver.__aexit__()
    assert list((tmp_path / "vllm").glob("*.json")) == []


def model(folder: Path, name: str = "m", **behaviour: object) -> Path:
    path = folder / name
    path.mkdir()
    (path / "fake.json").write_text(json.dumps(behaviour))
    return path


def starts(path: Path) -> list[dict[str, object]]:
    file = path / "starts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def words(start: dict[str, object]) -> str:
    return " ".join(start["argv"])  # type: ignore[arg-type]


async def complete(loaded: Loaded) -> httpx.Response:
    upstream = loaded.upstream
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.post(
            f"{upstream.base_url}/v1/completions",
            json={"model": upstream.served_name, "prompt": "a"},
            headers={"Authorization": f"Bearer {upstream.api_key}"},
        )
