"""The evict flow."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.runner.recording import record


@flow(name="evict")
async def evict(
    models: list[str] | None = None, decision: str | None = None, reason: str = ""
) -> State[Any]:
    """Unload models. Without names: the sweep over all that are due.

    Args:
        models: Registered names. Default: those that policy says are due.
        decision: Id of the decision to carry out.
        reason: Why, for the record.
    """
    return await record(models=models, decision=decision, reason=reason)
