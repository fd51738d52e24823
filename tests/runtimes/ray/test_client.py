"""The child process that speaks to Ray: what becomes of calls when it hangs, dies or refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from modelium.errors import Unavailable
from runtimes.ray.client import RayClient, RayError


def bridge(tmp_path: Path) -> RayClient:
    return RayClient(environment=dict(os.environ), directory=tmp_path)


async def test_what_ray_refuses_is_an_error_and_the_child_goes_on(tmp_path: Path) -> None:
    this = bridge(tmp_path)
    await this.start()
    try:
        for _ in range(2):
            with pytest.raises(RayError) as refused:
                await this.call("no-such-operation")
            assert refused.value.type == "KeyError"
    finally:
        await this.close()
    assert not this.alive


async def test_a_call_that_hangs_ends_at_its_deadline_and_the_child_with_it(
    tmp_path: Path,
) -> None:
    this = bridge(tmp_path)
    await this.start()
    with socket.socket() as deaf:
        deaf.bind(("", 0))  # Ray calls this machine by its outward address
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        try:
            with pytest.raises(Unavailable, match="did not answer `connect`"):
                await this.call(
                    "connect", timeout_s=0.5, address=address, host="127.0.0.1", port=8000
                )
        finally:
            await this.close()
    assert not this.alive


async def test_a_call_does_not_wait_for_a_cluster_that_died(tmp_path: Path) -> None:
    this = RayClient(environment=dict(os.environ), directory=tmp_path, cluster_alive=lambda: False)
    await this.start()
    with socket.socket() as deaf:
        deaf.bind(("", 0))
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        try:
            with pytest.raises(Unavailable, match="cluster died during `connect`"):
                await this.call(
                    "connect", timeout_s=60.0, address=address, host="127.0.0.1", port=8000
                )
        finally:
            await this.close()


async def test_a_child_that_dies_fails_the_calls_that_wait(tmp_path: Path) -> None:
    this = bridge(tmp_path)
    await this.start()
    with socket.socket() as deaf:
        deaf.bind(("", 0))  # Ray calls this machine by its outward address
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        call = asyncio.create_task(
            this.call("connect", timeout_s=60.0, address=address, host="127.0.0.1", port=8000)
        )
        await asyncio.to_thread(deaf.accept)  # it is on its way
        assert this.pid is not None
        os.kill(this.pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="ended"):
            await call
    with pytest.raises(Unavailable, match="closed"):
        await this.call("status")
    await this.close()


async def test_a_closed_bridge_refuses_calls(tmp_path: Path) -> None:
    this = bridge(tmp_path)
    with pytest.raises(Unavailable):
        await this.call("status")
    await this.close()
