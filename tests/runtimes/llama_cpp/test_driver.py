"""The llama.cpp driver over the fake engine."""

from __future__ import annotations

import sys
from pathlib import Path

from modelium.clock import SystemClock
from modelium.config import LlamaCpp as LlamaCppSection
from modelium.models import ModelFormat
from runtimes.llama_cpp.driver import llama_cpp_driver
from tests.runtimes.requests import Inventory, no_progress, profile, request

FAKE = Path(__file__).parents[2] / "fakes" / "engine.py"


GGUF = profile(ModelFormat.GGUF, files={"model": "q4.gguf"}, context_length=32768)


async def test_a_model_is_loaded_and_unloaded_by_the_shared_host(tmp_path: Path) -> None:
    server = tmp_path / "llama-server"
    server.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    server.chmod(0o755)
    (tmp_path / "m").mkdir()
    (tmp_path / "m/q4.gguf").touch()
    driver = llama_cpp_driver(
        config=LlamaCppSection(enabled=True, executable=str(server), base_port=0),
        state_directory=tmp_path,
        clock=SystemClock(),
        devices=Inventory(),
    )
    async with driver:
        loaded = await driver.load(request(tmp_path / "m", profile=GGUF), progress=no_progress)
        assert loaded.upstream.apis == {"openai"}
        assert (await driver.stats())["m"].generated_tokens == 3, "the probe's"
        await driver.unload("m", handle=loaded.handle, grace_s=5)
        assert await driver.discover({"m": loaded.handle}) == []
    assert list((tmp_path / "llama_cpp").glob("*.json")) == []


async def test_status_names_the_setting_of_a_missing_command(tmp_path: Path) -> None:
    driver = llama_cpp_driver(
        config=LlamaCppSection(enabled=True, executable="/nonexistent/llama-server"),
        state_directory=tmp_path,
        clock=SystemClock(),
        devices=Inventory(),
    )
    async with driver:
        status = await driver.status()
    assert not status.healthy
    assert "llama_cpp.executable" in status.detail
