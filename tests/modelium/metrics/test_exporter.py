"""The HTTP server for scrapers."""

from __future__ import annotations

import socket

import httpx
import pytest

from modelium.errors import ConfigError
from modelium.metrics import Metrics
from tests.modelium.metrics.conftest import fleet, gpu, model


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
