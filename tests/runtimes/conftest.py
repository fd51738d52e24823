"""Real runtimes that several tests share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from modelium.clock import SystemClock
from modelium.config import RayServe as RayServeConfig
from runtimes.process import proc
from runtimes.ray.driver import RayServeDriver
from tests.engines import environment
from tests.fakes.nvml import fake_nvml, nvml_library
from tests.runtimes.fake_vllm import make

__all__ = ["fake_nvml", "make", "nvml_library"]


@dataclass(frozen=True, kw_only=True)
class LocalRay:
    """One local Ray cluster: the driver that started it, and what another driver needs."""

    driver: RayServeDriver
    config: RayServeConfig
    state_directory: Path

    def another_driver(self) -> RayServeDriver:
        """Return a driver as Modelium creates it after a restart."""
        return RayServeDriver(
            config=self.config, state_directory=self.state_directory, clock=SystemClock()
        )


@pytest.fixture(scope="session")
def replica_python() -> str:
    """Interpreter with torch and transformers; the environment is created once per machine."""
    return str(environment("replica") / "bin/python")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def local_ray(
    tmp_path_factory: pytest.TempPathFactory, replica_python: str
) -> AsyncIterator[LocalRay]:
    """The one Ray cluster of the session (about 1 GB and 10-20 s)."""
    state = tmp_path_factory.mktemp("ray")
    config = RayServeConfig(enabled=True, endpoint="http://localhost:0", python=replica_python)
    driver = RayServeDriver(config=config, state_directory=state, clock=SystemClock())
    os.environ["SECRET_OF_MODELIUM"] = "not for models"
    try:
        async with driver:
            yield LocalRay(driver=driver, config=config, state_directory=state)
    finally:
        await driver.end(grace_s=0)
        del os.environ["SECRET_OF_MODELIUM"]
    token = str(state / "ray" / "token")
    table = proc.snapshot()
    assert not [pid for pid in table if proc.has_variable(pid, "RAY_AUTH_TOKEN_PATH", token)]
