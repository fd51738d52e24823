"""Calls through the child process when it refuses, hangs or dies."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from modelium.errors import Unavailable
from runtimes.ray.client import RayClient, RayError
from tests.runtimes.conditions import until

pytestmark = pytest.mark.slow


def client(tmp_path: Path) -> RayClient:
    return RayClient(environment=dict(os.environ), directory=tmp_path)


async def test_a_refused_call_raises_and_the_child_keeps_running(tmp_path: Path) -> None:
    this = client(tmp_path)
    await this.start()
    try:
        for _ in range(2):
            with pytest.raises(RayError) as refused:
                await this.call("no-such-operation")
            assert refused.value.type == "KeyError"
    finally:
        await this.close()
    assert not this.alive


async def test_a_call_that_hangs_ends_at_its_deadline_and_kills_the_child(
    tmp_path: Path,
) -> None:
    this = client(tmp_path)
    await this.start()
    with socket.socket() as deaf:
        deaf.bind(("", 0))  # Ray calls this machine by its outward address
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        try:
            with pytest.raises(Unavailable, match="did not answer `connect`"):
                await this.call(
                    "connect",
                    timeout_s=0.5,
                    address=address,
                    host="127.0.0.1",
                    port=8000,
                    location="HeadOnly",
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
                    "connect",
                    timeout_s=60.0,
                    address=address,
                    host="127.0.0.1",
                    port=8000,
                    location="HeadOnly",
                )
        finally:
            await this.close()


async def test_pending_calls_fail_when_the_child_dies(tmp_path: Path) -> None:
    this = client(tmp_path)
    await this.start()
    assert this.pid is not None
    os.kill(this.pid, signal.SIGSTOP)
    calls = [asyncio.create_task(this.call("status", timeout_s=60.0)) for _ in range(2)]
    await until(lambda: len(this._waiting) == 2)
    os.kill(this.pid, signal.SIGKILL)
    for call in calls:
        with pytest.raises(Unavailable, match="ended"):
            await call
    with pytest.raises(Unavailable, match="closed"):
        await this.call("status")
    await this.close()


async def test_a_closed_client_refuses_calls(tmp_path: Path) -> None:
    this = client(tmp_path)
    with pytest.raises(Unavailable):
        await this.call("status")
    await this.close()


async def test_what_is_planted_beside_the_child_neither_runs_in_it_nor_is_written_over(
    tmp_path: Path,
) -> None:
    ran, target = tmp_path / "ran", tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "json.py").write_text(f"open({str(ran)!r}, 'w').close()")
    (tmp_path / "child.log").symlink_to(target)
    this = client(tmp_path)
    await this.start()
    try:
        with pytest.raises((RayError, Unavailable)):
            await this.call("no-such-operation")
    finally:
        await this.close()
    assert not ran.exists()
    assert target.read_text() == "kept"
