"""Starts that fail or never finish, driven over the fake engine."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from modelium.errors import FailureKind, LoadFailed
from tests.runtimes.conditions import until
from tests.runtimes.fake_vllm import Make, model, starts
from tests.runtimes.requests import no_progress, request

pytestmark = pytest.mark.slow


async def test_a_killed_start_fails_as_killed(make: Make, tmp_path: Path) -> None:
    driver, path = make(), model(tmp_path, hang=True)
    load = asyncio.create_task(driver.load(request(path), progress=no_progress))
    await until(lambda: bool(starts(path)))
    (running,) = await driver.discover({})
    os.kill(running.pids[0], signal.SIGKILL)
    with pytest.raises(LoadFailed) as failure:
        await load
    assert failure.value.kind == FailureKind.KILLED


async def test_a_start_without_progress_is_stuck(make: Make, tmp_path: Path) -> None:
    driver = make(no_progress_s=1.0)
    with pytest.raises(LoadFailed, match="made no progress for 1 s") as failure:
        await driver.load(request(model(tmp_path, hang=True)), progress=no_progress)
    assert failure.value.kind == FailureKind.STUCK
    assert await driver.discover({}) == []


async def test_a_start_past_its_deadline_is_ended(make: Make, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="was not ready within 1 s"):
        await make().load(
            request(model(tmp_path, start_s=60), deadline_s=1.0), progress=no_progress
        )


async def test_an_engine_that_serves_another_name_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="instead of m"):
        await make().load(request(model(tmp_path, claims="other")), progress=no_progress)


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ({"fail_requests": True}, "m started but failed its first request"),
        ({"die_after": 1}, r"vLLM could not load m \(unknown, exit status 0\)"),
    ],
)
async def test_an_engine_that_fails_its_first_request_is_not_ready(
    make: Make, tmp_path: Path, behaviour: dict[str, object], told: str
) -> None:
    driver = make()
    with pytest.raises(LoadFailed, match=told):
        await driver.load(request(model(tmp_path, **behaviour)), progress=no_progress)
    assert await driver.discover({}) == []
