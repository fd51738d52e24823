"""The final state of a run tells what became of a drop."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from flows.runner.recording import state_of
from flows.runner.stage_call import StageCall
from modelium.models import Report


@pytest.mark.parametrize(
    ("outcome", "name"),
    [("registered", "Completed"), ("incomplete", "Incomplete"), ("rejected", "Rejected")],
)
async def test_a_drop_that_became_no_model_is_told_from_one_that_did(
    outcome: str, name: str
) -> None:
    services: Any = object
    call = StageCall(
        stage="ingest",
        parameters={},
        stages={},
        services=services,
        loop=asyncio.get_running_loop(),
        context=contextvars.copy_context(),
    )
    call.outcome.set_result(Report(stage="ingest", outcome=outcome, reason="why"))
    state = state_of(call)
    assert state.is_completed()
    assert (state.name, state.message) == (name, f"{outcome}: why")
