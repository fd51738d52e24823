"""Starting, stopping and the address."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from modelium import config
from modelium.clock import SystemClock
from modelium.errors import ConfigError
from modelium.gateway import Gateway
from modelium.metrics import Metrics
from tests.fakes.upstream import Upstream
from tests.modelium.gateway.conftest import Setup, Start, until
from tests.modelium.gateway.proxy.conftest import CHAT


async def test_leaving_sends_waiters_away_and_finishes_what_is_in_flight(
    start: Start, engine: Upstream
) -> None:
    async with start(shutdown_grace_s=20) as setup, httpx.AsyncClient(timeout=30) as http:
        url = f"{setup.gateway.url}/v1/chat/completions"
        setup.board.know(["m", "cold"])
        setup.board.open("m", engine.address("m"))
        held = asyncio.create_task(http.post(url, json=CHAT, headers={"x-do": "hold"}))
        waiting = asyncio.create_task(http.post(url, json={**CHAT, "model": "cold"}))
        await asyncio.wait_for(engine.arrived.wait(), 20)
        await until(lambda: "cold" in setup.board.traffic.snapshot())
        leaving = asyncio.create_task(setup.gateway.__aexit__(None, None, None))
        assert "shutting down" in (await waiting).text
        engine.release.set()
        assert (await held).status_code == 200
        await leaving
        with pytest.raises(httpx.ConnectError):
            await http.post(url, json=CHAT)


async def test_port_that_is_taken_is_named(setup: Setup) -> None:
    second = Gateway(
        config=config.Gateway.model_validate({"port": setup.port}),
        ingest=config.Ingest(),
        incoming=setup.incoming,
        switchboard=setup.board,
        operations=setup.operations,
        metrics=Metrics(),
        clock=SystemClock(),
        links={},
    )
    with pytest.raises(ConfigError, match=rf"gateway\.port.*{setup.port}.*free port"):
        await second.__aenter__()
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{setup.gateway.url}/healthz")).status_code == 200
