"""Stages by typed methods, awaited or in the background."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from modelium.errors import InputError
from modelium.models import Report
from modelium.stages.inline import InlineRunner
from modelium.stages.launcher import StageLauncher
from modelium.stages.services import Services


def launcher_of(load: Any) -> StageLauncher:
    runner = InlineRunner(stages={"load": load}, services=lambda: cast(Services, "services"))
    return StageLauncher(runner=runner)


async def test_start_returns_at_once_and_logs_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()

    async def load(services: Any, *, model: str, decision: str | None, steps: Any) -> Report:
        begun.set()
        raise InputError("no such thing")

    launcher = launcher_of(load)
    launcher.start(launcher.load(model="a"))
    assert not begun.is_set()
    await begun.wait()
    await asyncio.sleep(0)
    assert "load a failed: no such thing" in caplog.text
    await launcher.aclose()


async def test_aclose_ends_what_was_started() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def load(services: Any, *, model: str, decision: str | None, steps: Any) -> Report:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    launcher = launcher_of(load)
    launcher.start(launcher.load(model="a"))
    await begun.wait()
    await launcher.aclose()
    assert ended.is_set()
