"""Commands against a real gateway over a made-up world."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelium import config
from modelium.cli.main import app
from modelium.clock import SystemClock
from modelium.control.operations import Operations
from modelium.gateway import Gateway
from modelium.metrics import Metrics
from tests.modelium.conftest import World

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """Run a command against the world's own gateway."""
    operations = Operations(services=world.services)
    gateway = Gateway(
        config=config.Gateway(port=0),
        ingest=config.Ingest(),
        incoming=world.incoming,
        switchboard=world.services.switchboard,
        operations=operations,
        metrics=Metrics(),
        clock=SystemClock(),
        links={},
        shutdown_grace_s=1.0,
    )
    (tmp_path / "m.yaml").touch()
    monkeypatch.setenv("MODELIUM_CONFIG", str(tmp_path / "m.yaml"))
    monkeypatch.setenv("COLUMNS", "200")

    async def invoke(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, arguments)

    async with gateway:
        monkeypatch.setenv("MODELIUM_URL", gateway.url)
        yield invoke
    await operations.aclose()
