"""The ingest flow."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State

from flows.runner.recording import record


@flow(name="ingest")
async def ingest(
    path: str,
    name: str | None = None,
    team: str | None = None,
    priority_ceiling: Literal["high", "medium", "low"] | None = None,
    intent: str | None = None,
    missing: str | None = None,
    bound: str | None = None,
) -> State[Any]:
    """Take a dropped model folder into the repository and register it.

    Args:
        path: Folder or file that was dropped, absolute.
        name: Name to register it under. Default: the folder's name.
        team: Owning team.
        priority_ceiling: Highest class a plan may give it: high, medium or low.
        intent: Id of the operator's intent that asked for it.
        missing: What an incomplete drop lacks; it stays where it is. Default: that is found out.
        bound: Team of the key that asked for it; it takes nothing of others.
    """
    return await record(
        path=path,
        name=name,
        team=team,
        priority_ceiling=priority_ceiling,
        intent=intent,
        missing=missing,
        bound=bound,
    )
