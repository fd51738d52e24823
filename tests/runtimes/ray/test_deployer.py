"""Applications on a real Ray cluster: how they come, are replaced and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from modelium.clock import SystemClock
from modelium.errors import (
    DeadlineExceeded,
    FailureKind,
    LoadFailed,
)
from modelium.models import LoadSettings
from runtimes.process import proc
from runtimes.ray.client import RayClient
from runtimes.ray.cluster import LocalCluster
from runtimes.ray.driver import RayServeDriver
from tests import samples
from tests.runtimes.conditions import until
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import GPU, MIB, SOON_S, infer, quiet, request, running

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_a_broken_model_fails_with_its_cause_and_leaves_nothing(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    profile = samples.broken_onnx(tmp_path)
    with pytest.raises(LoadFailed, match="Protobuf parsing failed") as failed:
        await local_ray.driver.load(request("broken", tmp_path, profile), progress=quiet)
    assert failed.value.kind == FailureKind.BAD_FILES
    assert await running(local_ray.driver, "broken") is None


async def test_a_model_cannot_take_more_than_its_booking(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path, inputs=9000, outputs=9000)  # 324 MB
    with pytest.raises(LoadFailed) as failed:
        await local_ray.driver.load(
            request("greedy", tmp_path, profile, reserve=16 * MIB), progress=quiet
        )
    assert failed.value.kind == FailureKind.OUT_OF_MEMORY
    assert await running(local_ray.driver, "greedy") is None


async def test_a_second_load_joins_the_first(local_ray: LocalRay, tmp_path: Path) -> None:
    wanted = request("twice", tmp_path, samples.tiny_onnx(tmp_path))
    first, second = await asyncio.gather(
        *(local_ray.driver.load(wanted, progress=quiet) for _ in range(2))
    )
    assert first == second
    before = await running(local_ray.driver, "twice")
    assert await local_ray.driver.load(wanted, progress=quiet) == first
    after = await running(local_ray.driver, "twice")
    assert before is not None and after is not None
    assert before.pids == after.pids and len(after.pids) == 1
    await local_ray.driver.unload("twice", handle={}, grace_s=5)


async def test_other_settings_replace_the_application(local_ray: LocalRay, tmp_path: Path) -> None:
    wanted = request("changed", tmp_path, samples.tiny_onnx(tmp_path))
    await local_ray.driver.load(wanted, progress=quiet)
    before = await running(local_ray.driver, "changed")
    batching = replace(wanted, settings=LoadSettings(max_num_seqs=4))
    loaded = await local_ray.driver.load(batching, progress=quiet)
    after = await running(local_ray.driver, "changed")
    assert before is not None and after is not None and before.pids != after.pids
    row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    answers = await asyncio.gather(*(infer(loaded.upstream, row) for _ in range(9)))
    assert answers == [{"y": [10, 10, 10]}] * 9
    await local_ray.driver.unload("changed", handle={}, grace_s=5)


async def test_autoscaling_is_passed_on(local_ray: LocalRay, tmp_path: Path) -> None:
    extra = {"min_replicas": 2, "max_replicas": 3, "target_ongoing_requests": 1.5}
    wanted = request(
        "scaled",
        tmp_path,
        samples.tiny_onnx(tmp_path),
        reserve=1024 * MIB,
        settings=LoadSettings(extra=extra),
    )
    await local_ray.driver.load(wanted, progress=quiet)

    async def both() -> tuple[int, ...]:
        found = await running(local_ray.driver, "scaled")
        return found.pids if found is not None and len(found.pids) == 2 else ()

    pids = await until(both)
    await local_ray.driver.unload("scaled", handle={}, grace_s=5)
    assert not any(proc.alive(pid) for pid in pids)


async def test_unload_waits_for_the_processes_and_may_be_repeated(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path)
    await local_ray.driver.load(request("going", tmp_path, profile), progress=quiet)
    found = await running(local_ray.driver, "going")
    assert found is not None and found.pids
    await local_ray.driver.unload("going", handle=found.handle, grace_s=5)
    assert not any(proc.alive(pid) for pid in found.pids)
    await local_ray.driver.unload("going", handle=found.handle, grace_s=5)
    await local_ray.driver.unload("never-was", handle={}, grace_s=5)


async def test_a_request_in_flight_is_finished_within_the_grace(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    profile = samples.slow_onnx(tmp_path)
    loaded = await local_ray.driver.load(request("slow", tmp_path, profile), progress=quiet)
    tensor = {"name": "n", "datatype": "INT64", "shape": [1], "data": [3000]}
    computes = await watch(local_ray.driver, "slow")
    answer = asyncio.create_task(infer(loaded.upstream, tensor))
    await until(computes)
    await local_ray.driver.unload("slow", handle={}, grace_s=SOON_S)
    assert await answer == {"y": [256.0]}


async def test_a_request_that_outlasts_the_grace_is_cut_off(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    profile = samples.slow_onnx(tmp_path)
    loaded = await local_ray.driver.load(request("endless", tmp_path, profile), progress=quiet)
    tensor = {"name": "n", "datatype": "INT64", "shape": [1], "data": [10**9]}
    computes = await watch(local_ray.driver, "endless")
    answer = asyncio.create_task(infer(loaded.upstream, tensor))
    await until(computes)
    await local_ray.driver.unload("endless", handle={}, grace_s=0.5)
    with pytest.raises((AssertionError, httpx.HTTPError)):
        await answer
    assert await running(local_ray.driver, "endless") is None


async def watch(driver: RayServeDriver, model: str) -> Callable[[], bool]:
    """Whether the replica has computed since now; its processor time moves, Ray's counters lag."""
    found = await running(driver, model)
    assert found is not None
    (pid,) = found.pids
    before = proc.entry(pid)
    assert before is not None

    def computes() -> bool:
        now = proc.entry(pid)
        return now is not None and now.cpu_s - before.cpu_s > 0.5

    return computes


async def test_a_cancelled_load_leaves_nothing(local_ray: LocalRay, tmp_path: Path) -> None:
    deploying = asyncio.Event()
    profile = samples.tiny_onnx(tmp_path)
    load = asyncio.create_task(
        local_ray.driver.load(
            request("cancelled", tmp_path, profile),
            progress=lambda phase, share: deploying.set() if phase == "deploying" else None,
        )
    )
    await deploying.wait()
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert await running(local_ray.driver, "cancelled") is None


async def test_an_unload_calls_a_load_off(local_ray: LocalRay, tmp_path: Path) -> None:
    deploying = asyncio.Event()
    profile = samples.tiny_onnx(tmp_path)
    load = asyncio.create_task(
        local_ray.driver.load(
            request("off", tmp_path, profile),
            progress=lambda phase, share: deploying.set() if phase == "deploying" else None,
        )
    )
    await deploying.wait()
    await local_ray.driver.unload("off", handle={}, grace_s=0)
    with pytest.raises(LoadFailed, match="unloaded while it was loading"):
        await load
    assert await running(local_ray.driver, "off") is None


async def test_resources_that_are_not_there_end_at_the_deadline(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path)
    with pytest.raises(DeadlineExceeded, match="within 2 s"):
        await local_ray.driver.load(
            request("nowhere", tmp_path, profile, device=GPU, deadline_s=2.0), progress=quiet
        )
    assert await running(local_ray.driver, "nowhere") is None


async def test_applications_of_others_are_left_alone(local_ray: LocalRay, tmp_path: Path) -> None:
    profile = samples.tiny_onnx(tmp_path)
    await local_ray.driver.load(request("ours", tmp_path, profile), progress=quiet)
    cluster = LocalCluster(directory=local_ray.state_directory / "ray", clock=SystemClock())
    assert cluster.adopt() and cluster.record is not None
    bridge = RayClient(environment=cluster.environment(), directory=tmp_path)
    await bridge.start()
    try:
        await bridge.call(
            "connect",
            address=cluster.record.address,
            host="127.0.0.1",
            port=cluster.record.proxy_port,
            location="HeadOnly",
            timeout_s=SOON_S,
        )
        options = {"name": "d", "ray_actor_options": {"num_cpus": 0}}
        spec = {
            "kind": "onnx",
            "path": str(tmp_path),
            "file": "model.onnx",
            "gpu": False,
            "memory_bytes": 512 * MIB,
            "threads": 1,
            "max_batch": 1,
            "batch_wait_s": 0,
            "model": "theirs",
            "version": 1,
        }
        await bridge.call("deploy", name="theirs", options=options, spec=spec)
        assert await running(local_ray.driver, "theirs") is None
        await local_ray.driver.unload("theirs", handle={}, grace_s=0)
        with pytest.raises(LoadFailed, match="not this Modelium's"):
            await local_ray.driver.load(request("theirs", tmp_path, profile), progress=quiet)
        assert "theirs" in (await bridge.call("status"))["applications"]
        await bridge.call("delete", name="theirs")
    finally:
        await bridge.close()
    await local_ray.driver.unload("ours", handle={}, grace_s=0)
