"""The llama.cpp driver over the fake engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelium.analysis import analyze
from modelium.clock import SystemClock
from modelium.config import LlamaCpp as LlamaCppSection
from modelium.models import ModelFormat, Task
from modelium.ports import Loaded
from runtimes.llama_cpp.driver import llama_cpp_driver
from tests import engines
from tests.fakes import tiny_bert_gguf
from tests.runtimes.requests import Inventory, no_progress, profile, request

pytestmark = pytest.mark.slow

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


async def ask(loaded: Loaded, path: str, **body: object) -> dict[str, Any]:
    upstream = loaded.upstream
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(
            f"{upstream.base_url}{path}",
            json={"model": upstream.served_name, **body},
            headers={"Authorization": f"Bearer {upstream.api_key}"},
        )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.real
async def test_a_real_server_embeds_and_reranks(tmp_path: Path) -> None:
    driver = llama_cpp_driver(
        config=LlamaCppSection.model_validate(engines.llama_cpp()),
        state_directory=tmp_path,
        clock=SystemClock(),
        devices=Inventory(),
    )
    embedder = tiny_bert_gguf.write(tmp_path / "embedder")
    reranker = tiny_bert_gguf.write(tmp_path / "reranker", pooling=tiny_bert_gguf.RANK)
    async with driver:
        try:
            loaded = await driver.load(
                request(embedder, profile=analyze(embedder)), progress=no_progress
            )
            said = await ask(loaded, "/v1/embeddings", input="a sentence")
            vector = said["data"][0]["embedding"]
            assert len(vector) == tiny_bert_gguf.WIDTH
            assert abs(sum(x * x for x in vector) - 1) < 1e-3

            loaded = await driver.load(
                request(reranker, profile=analyze(reranker)), progress=no_progress
            )
            said = await ask(loaded, "/v1/rerank", query="a", documents=["a sentence", "b"])
            assert sorted(one["index"] for one in said["results"]) == [0, 1]
        finally:
            await driver.end(grace_s=5)


async def test_a_request_that_the_server_does_not_offer_is_no_failed_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = tmp_path / "llama-server"
    server.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    server.chmod(0o755)
    (tmp_path / "m").mkdir()
    (tmp_path / "m/q4.gguf").touch()
    (tmp_path / "m/fake.json").write_text('{"not_offered": true}')
    driver = llama_cpp_driver(
        config=LlamaCppSection(enabled=True, executable=str(server), base_port=0),
        state_directory=tmp_path,
        clock=SystemClock(),
        devices=Inventory(),
    )
    embedding = GGUF.model_copy(update={"task": Task.EMBEDDING})
    async with driver:
        loaded = await driver.load(request(tmp_path / "m", profile=embedding), progress=no_progress)
        assert "/v1/embeddings says" in caplog.text
        await driver.unload("m", handle=loaded.handle, grace_s=5)
