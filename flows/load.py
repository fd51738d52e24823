"""The load flow."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.runner.recording import record


@flow(name="load")
async def load(model: str, decision: str | None = None) -> State[Any]:
    """Load a model into the runtime that its decision chose, until it answers.

    Args:
        model: Registered name.
        decision: Id of the decision to carry out. Default: decide first.
    """
    return await record(model=model, decision=decision)
