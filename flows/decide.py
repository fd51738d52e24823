"""The decide flow."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State

from flows.runner.recording import record


@flow(name="decide")
async def decide(
    model: str | None = None,
    trigger: Literal[
        "ingest", "demand", "operator", "team", "sweep", "upkeep", "review"
    ] = "operator",
    handed: bool = False,
) -> State[Any]:
    """Ask the brain what to do, validate its plan and book what it needs.

    Args:
        model: Subject. Default: the whole fleet.
        trigger: Why: ingest, demand, operator, team, sweep, upkeep or review.
        handed: Set by the service where the decision is part of another run.
    """
    return await record(model=model, trigger=trigger, handed=handed)
