"""Stages that are counted by how they end."""

from __future__ import annotations

import asyncio

import pytest

from modelium.errors import FailureKind, LoadFailed, Unavailable
from modelium.models import Report
from modelium.stages.inline import Stages
from modelium.stages.instrumented import instrumented
from modelium.stages.services import Services
from tests.modelium.conftest import World


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "completed"),
        (Unavailable("gone"), "unavailable"),
        (LoadFailed("no", kind=FailureKind.KILLED), "killed"),
        (KeyError("x"), "bug"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
async def test_each_stage_run_is_counted_by_how_it_ended(
    world: World, error: BaseException | None, outcome: str
) -> None:
    async def play(services: Services, **parameters: object) -> Report:
        if error:
            raise error
        return Report(stage="load", outcome="ready")

    stages: Stages = instrumented({"load": play})
    try:
        await stages["load"](world.services, model="m")
    except BaseException as exc:
        assert exc is error
    shown = world.exposed()
    assert f'modelium_stage_runs_total{{outcome="{outcome}",stage="load"}} 1.0' in shown
