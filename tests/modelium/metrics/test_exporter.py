"""The HTTP server for scrapers."""

from __future__ import annotations

import asyncio
import socket
import threading

import httpx
import pytest
from prometheus_client import CollectorRegistry

from modelium.errors import ConfigError
from modelium.metrics import Metrics
from modelium.metrics.exporter import MOST, Exporter
from tests.modelium.metrics.conftest import fleet, gpu, model

pytestmark = pytest.mark.slow


async def test_exporter_serves_the_series_and_ends_with_its_context() -> None:
    metrics = Metrics()
    metrics.observe(fleet(model("m", gpu(0))))
    async with metrics.exporter(host="127.0.0.1", port=0) as exporter, httpx.AsyncClient() as http:
        url = f"{exporter.url}/metrics"
        answer = await http.get(url)
        assert answer.status_code == 200
        assert 'modelium_model_qps{gpu="' in answer.text
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(url)


async def test_exporter_on_a_taken_port_says_what_to_set() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"prometheus_port.*{port}.*free port"):
            await Metrics().exporter(host="127.0.0.1", port=port).__aenter__()


async def test_off_loopback_a_scraper_sends_the_token() -> None:
    async with (
        Metrics().exporter(host="127.0.0.1", port=0, token="t" * 16) as exporter,
        httpx.AsyncClient(base_url=exporter.url) as http,
    ):
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "t" * 16}):
            assert (await http.get("/metrics", headers=headers)).status_code == 401
        sent = {"authorization": "Bearer " + "t" * 16}
        assert (await http.get("/metrics", headers=sent)).status_code == 200


async def test_silent_scrapers_are_few_and_do_not_stay() -> None:
    registry = CollectorRegistry()
    async with (
        Exporter(registry=registry, host="127.0.0.1", port=0, timeout_s=1) as exporter,
        httpx.AsyncClient(base_url=exporter.url) as http,
    ):
        port = int(exporter.url.rpartition(":")[2])
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST + 4)]
        names = [thread.name for thread in threading.enumerate()]
        assert sum("process_request_thread" in name for name in names) <= MOST
        async with asyncio.timeout(20):
            assert [await reader.read() for reader, _ in silent] == [b""] * len(silent)
        assert (await http.get("/metrics")).status_code == 200
        for _, writer in silent:
            writer.close()
