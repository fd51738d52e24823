from __future__ import annotations

from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.config import RayServe as RayServeConfig
from modelium.errors import (
    Unavailable,
)
from runtimes.ray.driver import RayServeDriver

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_a_cluster_that_is_not_there_is_reported_not_raised(tmp_path: Path) -> None:
    config = RayServeConfig(enabled=True, address="127.0.0.1:1", endpoint="http://127.0.0.1:8000")
    driver = RayServeDriver(config=config, state_directory=tmp_path, clock=SystemClock())
    async with driver:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await driver.discover({})
        status = await driver.status()
        assert not status.healthy and status.detail
        with pytest.raises(Unavailable, match="is down") as down:
            await driver.discover({})
        assert down.value.retry_after_s
