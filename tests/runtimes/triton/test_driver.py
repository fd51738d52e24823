"""The Triton driver without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.config import Triton as TritonSection
from modelium.errors import ConfigError, Unavailable
from runtimes.triton.driver import TritonDriver
from tests.engines import free_port
from tests.runtimes.requests import Inventory, no_progress, request
from tests.runtimes.triton.drops import drop, onnx


def driver(state: Path, **section: object) -> TritonDriver:
    endpoint = {"endpoint": f"http://127.0.0.1:{free_port(3)}"}
    return TritonDriver(
        config=TritonSection.model_validate({"enabled": True} | endpoint | section),
        state_directory=state,
        clock=SystemClock(),
        devices=Inventory(),
    )


async def test_status_reports_a_missing_server_and_does_not_raise(
    tmp_path: Path,
) -> None:
    async with driver(tmp_path) as triton:
        status = await triton.status()
        assert not status.healthy
        assert "triton.endpoint" in status.detail
        with pytest.raises(Unavailable):
            await triton.load(
                request(drop(tmp_path / "m", model_onnx="x"), profile=onnx()),
                progress=no_progress,
            )
        with pytest.raises(Unavailable):
            await triton.discover({})
        assert await triton.stats() == {}


@pytest.mark.parametrize(
    "command", [("/nonexistent/tritonserver",), (sys.executable, "-c", "exit('no good option')")]
)
async def test_a_server_that_does_not_come_up_says_why(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    async with driver(tmp_path, command=command) as triton:
        status = await triton.status()
        assert not status.healthy
        assert await triton.discover({}) == []
        await triton.unload("m", handle={}, grace_s=1)
        await triton.end(grace_s=10)


async def test_triton_does_not_sleep(tmp_path: Path) -> None:
    async with driver(tmp_path) as triton:
        with pytest.raises(Unavailable, match="unload instead"):
            await triton.sleep("m", handle={})


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:99999", "https://x:1"])
def test_an_invalid_endpoint_is_a_configuration_error(tmp_path: Path, endpoint: str) -> None:
    # The configuration's own check is passed by, as by who builds the section in code.
    section = TritonSection(enabled=True).model_copy(update={"endpoint": endpoint})
    with pytest.raises(ConfigError):
        TritonDriver(
            config=section, state_directory=tmp_path, clock=SystemClock(), devices=Inventory()
        )
