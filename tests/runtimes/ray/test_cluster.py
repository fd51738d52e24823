"""The local cluster: what it hides from models, and what happens when it dies."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.config import RayServe as RayServeConfig
from modelium.errors import (
    Unavailable,
)
from runtimes.process import proc
from runtimes.ray.cluster import LocalCluster
from runtimes.ray.driver import RayServeDriver
from tests import samples
from tests.runtimes.conditions import until
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import quiet, request, running

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_a_replica_sees_nothing_of_modeliums_secrets(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path)
    await local_ray.driver.load(request("nosy", tmp_path, profile), progress=quiet)
    found = await running(local_ray.driver, "nosy")
    assert found is not None
    secret = os.environ["SECRET_OF_MODELIUM"]
    assert found.pids
    assert not any(proc.has_variable(pid, "SECRET_OF_MODELIUM", secret) for pid in found.pids)
    await local_ray.driver.unload("nosy", handle={}, grace_s=0)


async def test_a_head_that_died_is_started_again_without_applications(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    driver = local_ray.driver
    wanted = request("again", tmp_path, samples.tiny_onnx(tmp_path))
    await driver.load(wanted, progress=quiet)
    cluster = LocalCluster(directory=local_ray.state_directory / "ray", clock=SystemClock())
    assert cluster.adopt() and cluster.record is not None
    for pid in cluster.record.processes:
        os.kill(pid, signal.SIGKILL)

    async def noticed() -> bool:
        return not (await driver.status()).healthy

    async def healthy() -> bool:
        return (await driver.status()).healthy

    await until(noticed)
    await until(healthy)
    assert await driver.discover({"again": {}}) == []
    assert (await driver.load(wanted, progress=quiet)).upstream.served_name == "again"
    await driver.unload("again", handle={}, grace_s=5)


async def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = RayServeConfig(enabled=True, endpoint=f"http://localhost:{port}")
        driver = RayServeDriver(config=config, state_directory=tmp_path, clock=SystemClock())
        async with driver:
            with pytest.raises(Unavailable, match=f"{port} of ray_serve.endpoint .* taken"):
                await driver.discover({})
