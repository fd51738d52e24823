"""The Ray Serve driver on a real local cluster."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.config import RayServe as RayServeConfig
from modelium.errors import (
    ConfigError,
    Unsupported,
)
from runtimes.ray.driver import RayServeDriver
from tests import samples
from tests.runtimes.conditions import until
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import infer, quiet, request, running

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_another_driver_finds_the_models_and_manages_them(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    wanted = request("adopted", tmp_path, samples.tiny_onnx(tmp_path))
    loaded = await local_ray.driver.load(wanted, progress=quiet)
    async with local_ray.another_driver() as second:
        found = await running(second, "adopted")
        assert found is not None and found.state == "ready"
        assert found.upstream == loaded.upstream
        assert found.handle == loaded.handle
        assert await second.load(wanted, progress=quiet) == loaded
    row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    assert await infer(loaded.upstream, row) == {"y": [10, 10, 10]}  # it outlived its driver
    async with local_ray.another_driver() as third:
        await third.unload("adopted", handle=loaded.handle, grace_s=5)
        assert await running(local_ray.driver, "adopted") is None
        # Leaving without any model would end the cluster; another one stays for the tests.
        await third.load(request("stays", tmp_path, wanted.profile), progress=quiet)
    await local_ray.driver.unload("stays", handle={}, grace_s=5)


async def test_a_killed_replica_is_noticed_and_comes_back(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    driver = local_ray.driver
    await driver.load(request("killed", tmp_path, samples.tiny_onnx(tmp_path)), progress=quiet)
    before = await running(driver, "killed")
    assert before is not None
    os.kill(before.pids[0], signal.SIGKILL)

    async def unwell() -> bool:
        now = await running(driver, "killed")
        return now is not None and now.state != "ready"

    async def well() -> bool:
        now = await running(driver, "killed")
        return now is not None and now.state == "ready" and now.pids != before.pids

    await until(unwell)
    await until(well)
    await driver.unload("killed", handle={}, grace_s=5)


async def test_counters_move_with_requests(local_ray: LocalRay, tmp_path: Path) -> None:
    profile = samples.tiny_onnx(tmp_path)
    loaded = await local_ray.driver.load(request("counted", tmp_path, profile), progress=quiet)
    row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    for _ in range(3):
        await infer(loaded.upstream, row)

    async def counted() -> bool:
        return (await local_ray.driver.stats())["counted"].completed == 3

    await until(counted)
    assert (await local_ray.driver.stats())["counted"].latency_sum_s > 0
    await local_ray.driver.unload("counted", handle={}, grace_s=5)


async def test_there_is_no_sleep(local_ray: LocalRay) -> None:
    with pytest.raises(Unsupported):
        await local_ray.driver.sleep("m", handle={})
    with pytest.raises(Unsupported):
        await local_ray.driver.wake("m", handle={})


@pytest.mark.parametrize("endpoint", ["https://localhost:1", "http://localhost", "localhost:80"])
async def test_an_endpoint_that_cannot_be_served_is_refused(tmp_path: Path, endpoint: str) -> None:
    config = RayServeConfig.model_construct(enabled=True, endpoint=endpoint, address=None)
    with pytest.raises(ConfigError, match=r"ray_serve\.endpoint"):
        RayServeDriver(config=config, state_directory=tmp_path, clock=SystemClock())
