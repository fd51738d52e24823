"""Which Ray cluster is used: a configured one, a running Serve's, or Modelium's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.config import RayServe as RayServeConfig
from modelium.errors import ConfigError, LoadFailed, Unavailable
from runtimes.ray import running_serve
from runtimes.ray.driver import RayServeDriver
from tests import samples
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import infer, quiet, request, running, session_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_a_cluster_that_is_not_there_is_reported_not_raised(tmp_path: Path) -> None:
    config = RayServeConfig(enabled=True, address="127.0.0.1:1", endpoint="http://127.0.0.1:8000")
    driver = RayServeDriver(config=config, state_directory=tmp_path, clock=SystemClock())
    async with driver:
        first = await driver.status()
        assert first.starting and not first.healthy
        with pytest.raises(Unavailable, match="cannot be reached"):
            await driver.discover({})
        status = await driver.status()
        assert not status.healthy and not status.starting and status.detail
        with pytest.raises(Unavailable, match="is down") as down:
            await driver.discover({})
        assert down.value.retry_after_s


async def test_two_nodes_on_one_cluster_have_each_their_own_applications(
    local_ray: LocalRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = samples.tiny_onnx(tmp_path)
    theirs = await local_ray.driver.load(request("theirs", tmp_path, profile), progress=quiet)
    cluster = local_ray.driver._cluster
    assert cluster is not None and cluster.record is not None
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, cluster.environment()[name])
    config = RayServeConfig(
        enabled=True,
        address=cluster.record.address,
        endpoint=f"http://localhost:{theirs.upstream.port}",
    )
    one, two = (
        RayServeDriver(
            config=config, state_directory=tmp_path / "s", clock=SystemClock(), node=node
        )
        for node in ("one", "two")
    )
    async with one, two:
        same = [
            await driver.load(request("same", tmp_path, profile), progress=quiet)
            for driver in (one, two)
        ]
        assert [loaded.upstream.prefix for loaded in same] == ["/one.same", "/two.same"]
        row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        for loaded in same:
            assert await infer(loaded.upstream, row) == {"y": [10, 10, 10]}
        await one.unload("same", handle={}, grace_s=0)
        assert [each.model for each in await one.discover({})] == []
        (left,) = await two.discover({})
        assert (left.model, left.state, left.upstream) == ("same", "ready", same[1].upstream)
        assert list(await two.stats()) == ["same"]
        await two.unload("same", handle={}, grace_s=0)


async def test_the_serve_that_runs_at_the_endpoint_is_used_and_left_alone(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path)
    theirs = await local_ray.driver.load(request("theirs", tmp_path, profile), progress=quiet)
    port = theirs.upstream.port  # for another service this is a cluster of others
    state = tmp_path / "state"
    config = RayServeConfig(enabled=True, endpoint=f"http://localhost:{port}")
    guest = RayServeDriver(config=config, state_directory=state, clock=SystemClock())
    async with guest:
        loaded = await guest.load(request("guest", tmp_path, profile), progress=quiet)
        assert loaded.upstream.port == port
        # Replicas of others' clusters cannot read the file that keys derive from.
        assert theirs.upstream.api_key and loaded.upstream.api_key is None
        row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        assert await infer(loaded.upstream, row) == {"y": [10, 10, 10]}
        assert [one.model for one in await guest.discover({})] == ["guest"]
        assert await running(local_ray.driver, "guest") is None
        with pytest.raises(LoadFailed, match="not this Modelium's: rename"):
            await guest.load(request("theirs", tmp_path, profile), progress=quiet)
        await guest.unload("theirs", handle={}, grace_s=0)
    assert not (state / "ray" / "cluster.json").exists(), "it started a cluster of its own"
    down = RayServeDriver(config=config, state_directory=state, clock=SystemClock())
    await down.end(grace_s=0)
    await down.__aexit__()
    names = (await session_of(local_ray.driver).status()).applications
    assert "theirs" in names and "guest" not in names
    await local_ray.driver.unload("theirs", handle={}, grace_s=0)


async def test_another_program_at_the_endpoint_is_named(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nnginx")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match=f"{port} of ray_serve.endpoint is taken by another"):
            await running_serve.find("127.0.0.1", port)
    assert await running_serve.find("127.0.0.1", port) is None


async def test_a_serve_whose_cluster_is_elsewhere_needs_its_address(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        config = RayServeConfig(enabled=True, endpoint=f"http://localhost:{port}")
        driver = RayServeDriver(config=config, state_directory=tmp_path, clock=SystemClock())
        async with driver:
            with pytest.raises(Unavailable, match=r"set ray_serve\.address to its GCS"):
                await driver.discover({})
