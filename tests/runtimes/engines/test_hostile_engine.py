"""Engines whose answers would hold the monitor up, or fill the service's memory."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelium.models import Upstream
from runtimes.engines.client import METRICS_BYTES, EngineClient
from runtimes.process import proc
from runtimes.process.ports import free_port
from tests.runtimes.clock import FakeClock
from tests.runtimes.conditions import until
from tests.runtimes.engines.api import Api, Recipe

pytestmark = pytest.mark.slow

ENGINE = Path(__file__).parents[2] / "fakes" / "engine.py"

Start = Callable[..., Awaitable[tuple[Upstream, int]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a fake engine; return where it listens, and its pid."""
    started: list[subprocess.Popen[bytes]] = []

    async def engine(**behaviour: Any) -> tuple[Upstream, int]:
        (tmp_path / "fake.json").write_text(json.dumps(behaviour))
        port = free_port("127.0.0.1")
        assert port is not None
        argv = (sys.executable, str(ENGINE), "serve", str(tmp_path), "--port", str(port))
        started.append(await asyncio.to_thread(subprocess.Popen, argv, stderr=subprocess.DEVNULL))
        pid = started[-1].pid
        await until(lambda: proc.listens(port, [pid]))
        api = Api()
        api.port = port
        return api.upstream(), pid

    yield engine
    for process in started:
        process.kill()
        process.wait()


async def test_an_engine_that_drips_holds_nothing_up(start: Start) -> None:
    upstream, pid = await start(drip_s=0.02)
    client = EngineClient(recipe=Recipe(), clock=FakeClock(), timeout_s=1)
    async with asyncio.timeout(60):  # without a deadline of its own, no call would end
        assert await client.health_problem(upstream, [pid]) == (
            "/health does not answer: ReadTimeout"
        )
        assert await client.served_names(upstream) is None
        assert not await client.is_sleeping(upstream)
        with pytest.raises(httpx.ReadTimeout, match="no whole answer within 1 s"):
            await client.stats(upstream)
    await client.close()


async def test_an_answer_without_end_is_cut(start: Start) -> None:
    upstream, pid = await start(endless=True)
    client = EngineClient(recipe=Recipe(), clock=FakeClock(), timeout_s=60)
    assert await client.health_problem(upstream, [pid]) == "/health does not answer: ReadError"
    assert await client.served_names(upstream) is None
    assert not await client.is_sleeping(upstream)
    with pytest.raises(httpx.ReadError, match=f"over {METRICS_BYTES} bytes"):
        await client.stats(upstream)
    await client.close()


async def test_an_encoded_answer_is_refused(start: Start) -> None:
    upstream, _ = await start(gzip_bytes=64 * 1024**2)
    client = EngineClient(recipe=Recipe(), clock=FakeClock(), timeout_s=60)
    with pytest.raises(httpx.DecodingError, match="encoded"):
        await client.stats(upstream)
    await client.close()


async def test_an_answer_that_nests_without_end_is_none() -> None:
    client = EngineClient(recipe=Recipe(), clock=FakeClock(), timeout_s=60)
    deep = (200, "[" * 200_000)
    async with Api(v1__models=deep, is_sleeping=deep) as api:
        assert await client.served_names(api.upstream()) is None
        assert not await client.is_sleeping(api.upstream())
    await client.close()


async def test_the_longest_metrics_are_read() -> None:
    client = EngineClient(recipe=Recipe(), clock=FakeClock(), timeout_s=60)
    async with Api(metrics=(200, '{"running": 3}'.ljust(METRICS_BYTES))) as api:
        assert (await client.stats(api.upstream())).running == 3
    await client.close()
