"""A node's raylet of a cluster of several nodes: found, started, started again, ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.errors import Unavailable
from runtimes.ray import ray_start
from runtimes.ray.member import Member
from tests.runtimes.conditions import until

ADDRESS = "127.0.0.1:26391"
SLEEPS = "sleep 600; :"


def raylet(folder: Path) -> Path:
    """Return a program of that name; it takes a raylet's arguments after ``-c SCRIPT``."""
    program = folder / "raylet"
    shutil.copy("/bin/bash", program)
    return program


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(address=ADDRESS, node="gpu1", directory=tmp_path / "ray", clock=SystemClock())


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A raylet of the cluster that somebody else has started."""
    argv = [str(raylet(tmp_path)), "-c", SLEEPS, f"--gcs-address={ADDRESS}"]
    process = subprocess.Popen(argv, start_new_session=True)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def starts(monkeypatch: pytest.MonkeyPatch, script: str) -> list[tuple[str, ...]]:
    """Have ``script`` run in place of `ray start`; return the arguments of each start."""
    asked: list[tuple[str, ...]] = []

    def command(*arguments: str) -> list[str]:
        asked.append(arguments)
        return ["/bin/sh", "-c", script]

    monkeypatch.setattr(ray_start, "command", command)
    return asked


def starting(tmp_path: Path, address: str = ADDRESS) -> str:
    return f"{raylet(tmp_path)} -c '{SLEEPS}' --gcs-address={address} >/dev/null 2>&1 &"


async def test_a_raylet_that_runs_already_is_used_and_left_alone(
    member: Member, running: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = starts(monkeypatch, "exit 1")
    await until(lambda: Path(f"/proc/{running.pid}/exe").resolve().name == "raylet")
    await member.ensure()
    assert (asked, member.alive(), member.own) == ([], True, False)
    await member.end()
    assert running.poll() is None


async def test_one_is_started_with_the_nodes_label_where_none_runs(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = starts(monkeypatch, starting(tmp_path))
    await member.ensure()
    ((address, _temp, label),) = asked
    assert (address, label) == (f"--address={ADDRESS}", "--labels=modelium-node=gpu1")
    assert member.alive() and member.own
    await member.end()
    assert not member.own and not member.alive()


async def test_one_that_exited_is_started_again(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = starts(monkeypatch, starting(tmp_path))
    await member.ensure()
    assert member._raylet is not None
    os.kill(member._raylet[0], signal.SIGKILL)
    await until(lambda: not member.alive())
    shutil.rmtree(tmp_path / "ray" / "member", ignore_errors=True)
    await member.ensure()
    assert (len(asked), member.alive()) == (2, True)
    await member.end()


async def test_one_of_another_cluster_is_not_taken(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(monkeypatch, starting(tmp_path, "127.0.0.1:26392"))
    with pytest.raises(Unavailable, match="no raylet runs"):
        await member.ensure()
    await member.end()


async def test_a_start_that_fails_is_told_in_rays_words(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(monkeypatch, "echo the versions differ; exit 3")
    with pytest.raises(Unavailable, match=r"failed \(3\): the versions differ"):
        await member.ensure()
    await member.end()
