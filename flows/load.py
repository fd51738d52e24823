"""The load flow."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State

from flows.runner.recording import record


@flow(name="load")
async def load(
    model: str, decision: str | None = None, trigger: Literal["operator", "team"] = "operator"
) -> State[Any]:
    """Load a model into the runtime that its decision chose, until it answers.

    Args:
        model: Registered name.
        decision: Id of the decision to carry out. Default: decide first.
        trigger: Who asks, where it is decided first: operator, or team, whose quotas bind.
    """
    return await record(model=model, decision=decision, trigger=trigger)
