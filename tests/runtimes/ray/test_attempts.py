"""What is said while Ray cannot be reached, attempt after attempt; no Ray runs here."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from modelium.clock import SystemClock
from modelium.config import RayServe as RayServeConfig
from modelium.errors import Unavailable
from runtimes.ray.cluster import LocalCluster
from runtimes.ray.connection import RayConnection
from runtimes.ray.driver import RayServeDriver
from runtimes.ray.serve_status import Node
from tests.fakes.clock import FakeClock

REASON = (
    "no Ray cluster answers at ray_serve.address '{}': start it, or remove the setting for a local "
    "cluster"
)
NOWHERE, ELSEWHERE = "127.0.0.1:1", "nowhere"


def connection(folder: Path, clock: FakeClock) -> RayConnection:
    return RayConnection(
        address=NOWHERE, cluster=None, host="127.0.0.1", port=8000, directory=folder, clock=clock
    )


async def attempt(ray: RayConnection) -> None:
    """Connect in the background, as the status does, and wait for the failure."""
    ray.start_connecting()
    assert ray._background is not None
    await asyncio.wait([ray._background])
    await asyncio.sleep(0)  # for its callbacks


async def test_a_failure_is_logged_once_while_its_reason_is_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    ray = connection(tmp_path, clock)
    with caplog.at_level(logging.WARNING):
        for pause in (0, 0, 2, 4):  # the second one is not due yet
            clock.advance(pause)
            await attempt(ray)
        ray._address = ELSEWHERE
        clock.advance(8)
        await attempt(ray)
    assert ray._failures == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"Ray Serve cannot be reached: {REASON.format(NOWHERE)}",
        f"Ray Serve cannot be reached: {REASON.format(ELSEWHERE)}",
    ]
    await ray.close()


async def test_the_last_failure_is_known_during_the_next_attempt(tmp_path: Path) -> None:
    clock = FakeClock()
    ray = connection(tmp_path, clock)
    assert ray.problem == "not connected yet"
    ray.start_connecting()
    await asyncio.sleep(0)
    assert (ray.problem, ray.starting) == ("starting", True)
    await attempt(ray)
    clock.advance(2)
    ray.start_connecting()
    await asyncio.sleep(0)
    assert ray._background is not None and not ray._background.done()
    assert (ray.problem, ray.starting) == (REASON.format(NOWHERE), False)
    await ray.close()


async def test_a_start_that_hangs_silently_is_told_so(tmp_path: Path) -> None:
    cluster = LocalCluster(directory=tmp_path / "ray", clock=SystemClock(), start_s=0)
    with pytest.raises(Unavailable) as failure:
        await cluster.start(proxy_host="127.0.0.1", proxy_port=0)
    assert str(failure.value) == (
        "ray start took more than 0 s and printed nothing; it is tried again"
    )
    assert not cluster.alive()


async def test_a_node_that_does_not_answer_in_time_is_told_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("", request=request)

    config = RayServeConfig(enabled=True, address=NOWHERE, endpoint="http://127.0.0.1:8000")
    driver = RayServeDriver(config=config, state_directory=tmp_path, clock=SystemClock())
    await driver._http.aclose()
    async with httpx.AsyncClient(transport=httpx.MockTransport(silent)) as driver._http:
        node = Node(id="n", ip="192.0.2.2", metrics_port=1, head=True)
        assert await driver._scrape(node) == ""
    (record,) = caplog.records
    assert record.getMessage() == "cannot read the metrics of Ray node 192.0.2.2: ReadTimeout"


def test_a_refusal_of_rays_without_words_is_its_type() -> None:
    script = (
        "from runtimes.ray import client_process as client\n"
        "client.OPERATIONS.update(silent=lambda: (_ for _ in ()).throw(OSError()))\n"
        "client.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input='{"id": 1, "op": "silent"}\n',
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"id": 1, "error": "OSError", "type": "OSError"}
