"""The monitor flow."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.runner.recording import record


@flow(name="monitor")
async def monitor() -> State[Any]:
    """Reconcile the store with what the runtimes run."""
    return await record()
