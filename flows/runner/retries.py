"""What a run is given when a person retries it (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.objects import FlowRun

AWAITING_RETRY = "AwaitingRetry"
"""Name of the state that Prefect's Retry sets."""


def parameters_of(run: FlowRun) -> Mapping[str, Any]:
    """Return the parameters to execute ``run`` with, which was taken from the work pool.

    The decision that a run was started for is over once that run has ended: its memory was given
    back. A retry is therefore decided anew, as what an operator asks for.
    """
    retried = run.run_count > 0 or (run.state is not None and run.state.name == AWAITING_RETRY)
    if retried and run.parameters.get("decision"):
        return {**run.parameters, "decision": None}
    return run.parameters
