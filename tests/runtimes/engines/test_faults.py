"""Faults of an engine process after it has become ready, or while it does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelium.errors import ModeliumError
from modelium.gateway.proxy.upstream import Interrupted, UpstreamClient
from modelium.ports import Loaded
from runtimes.process import engine_log, proc
from tests.runtimes.conditions import until
from tests.runtimes.fake_vllm import Make, model, starts
from tests.runtimes.requests import no_progress, request

pytestmark = pytest.mark.slow


async def test_an_engine_that_dies_after_it_became_ready_is_told_with_its_status(
    make: Make, tmp_path: Path
) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path, dies_s=0.3)), progress=no_progress)
    await until(lambda: not (e := proc.entry(loaded.handle["pid"])) or not e.alive)
    (gone,) = await driver.discover({"m": loaded.handle})
    assert (gone.state, gone.detail) == ("unhealthy", "its engine exited with status 1")


async def test_a_flood_of_lines_while_a_model_loads_fills_no_disk(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "MAX_BYTES", 200_000)
    driver, path = make(), model(tmp_path, hang=True, flood_s=0.01)
    load = asyncio.create_task(driver.load(request(path), progress=no_progress))
    folder = tmp_path / "vllm"
    await until(lambda: (folder / f"m.log.{engine_log.KEPT}").exists())
    sizes = {name: (folder / name).stat().st_size for name in ("m.log.1", "m.log.2", "m.log.3")}
    assert max(sizes.values()) <= 200_000
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert len(starts(path)) == 1


async def events(loaded: Loaded, client: UpstreamClient) -> bytes:
    body = b'{"model": "m", "prompt": "a", "stream": true}'
    headers = [(b"content-type", b"application/json")]
    received, more = b"", True
    async with client.send(
        loaded.upstream, method="POST", target="/v1/completions", headers=headers, body=body
    ) as answer:
        while more:
            chunk, more = await answer.chunk()
            received += chunk
    return received


@pytest.mark.parametrize("fault", ["break_after", "garbage_after", "stall_after"])
async def test_a_stream_that_goes_wrong_is_no_complete_answer(
    make: Make, tmp_path: Path, fault: str
) -> None:
    driver = make()
    loaded = await driver.load(
        request(model(tmp_path, chunks=4, **{fault: 2})), progress=no_progress
    )
    # A stall ends at this time; what broke is noticed at once.
    async with UpstreamClient(silence_timeout_s=2.0) as client:
        with pytest.raises(Interrupted):
            await events(loaded, client)


async def test_a_whole_stream_of_the_fake_engine_is_one(make: Make, tmp_path: Path) -> None:
    loaded = await make().load(request(model(tmp_path, chunks=4)), progress=no_progress)
    async with UpstreamClient() as client:
        assert (await events(loaded, client)).endswith(b"data: [DONE]\n\n")


async def test_an_answer_that_is_no_http_is_the_engines_failure(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path, garbage_from=1)
    loaded = await make().load(request(path), progress=no_progress)
    async with UpstreamClient(silence_timeout_s=5.0) as client:
        with pytest.raises(ModeliumError):
            await events(loaded, client)
