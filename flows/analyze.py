"""The analyze flow."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.runner.recording import record


@flow(name="analyze")
async def analyze(model: str) -> State[Any]:
    """Find out what a registered model is and which runtimes can serve it.

    Args:
        model: Registered name.
    """
    return await record(model=model)
