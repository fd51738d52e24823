"""The body of all six flows: run the stage, then record its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State
from prefect.context import AsyncClientContext, FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from flows.runner.api_slots import current_slot
from flows.runner.artifact import artifact_of
from flows.runner.recorded_steps import RecordedSteps
from flows.runner.stage_call import StageCall, current
from modelium.errors import ModeliumError
from modelium.models import Report

RECORD_S = 10.0
"""Deadline for artifact and tags; the stage's caller does not wait for them."""

NAMED = frozenset({"incomplete", "rejected"})
"""Outcomes that are the name of the run's state, so that lists of runs tell them from a success."""

NOTHING = "nothing"
"""The outcome of a sweep with nothing to do: its state says so, and it gets no artifact."""


async def record(**parameters: Any) -> State[Any]:
    """Run the stage of this flow run with ``parameters``; return the run's final state.

    Raises:
        RuntimeError: outside the Modelium service.
    """
    call = current.get(None)
    if call is None:
        raise RuntimeError(
            "this flow runs inside the Modelium service: start it with `modelium up`, then "
            "`prefect deployment run` from anywhere"
        )
    call.begin(RecordedSteps(), parameters)
    own = current_slot.get()
    own.pause()
    try:
        await call.wait_done()
    finally:
        await own.resume()
    state = state_of(call)
    log = get_run_logger()
    if state.is_completed():
        log.info("%s", state.message)
    else:
        log.error("%s", state.message, exc_info=_bug(call))
    if call.outcome.exception() is None:
        try:
            async with asyncio.timeout(RECORD_S):
                await _add_details(call, call.outcome.result())
        except Exception:
            log.warning("tags or artifact of this run could not be recorded", exc_info=True)
    return state


def state_of(call: StageCall) -> State[Any]:
    """Return the final state of ``call``, which must have ended."""
    error = call.outcome.exception()
    if error is None:
        report = call.outcome.result()
        message = ": ".join(filter(None, (report.outcome, report.reason)))
        if report.outcome in NAMED:
            return Completed(name=report.outcome.capitalize(), message=message)
        return Completed(message=message)
    if call.cancelled:
        return Cancelled(message=call.cancelled)
    kind = error.reason if isinstance(error, ModeliumError) else type(error).__name__
    return Failed(message=f"{kind}: {error}")


def _bug(call: StageCall) -> BaseException | None:
    """Return the error that is a bug, whose traceback is logged."""
    error = call.outcome.exception()
    return None if isinstance(error, ModeliumError) else error


def tags_of(parameters: Mapping[str, Any]) -> set[str]:
    """Return the tags that are known before the stage runs."""
    named = [parameters.get("model"), *(parameters.get("models") or ())]
    return {f"model:{name}" for name in named if name}


async def _add_details(call: StageCall, report: Report) -> None:
    tags = tags_of(call.parameters) | call.tags | {f"device:{device}" for device in report.devices}
    tags |= {f"model:{report.model}"} if report.model else set()
    tags |= {f"runtime:{report.runtime}"} if report.runtime else set()
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    async with AsyncClientContext.get_or_create() as connection:
        if run is not None and not tags <= set(run.tags):
            await connection.client.update_flow_run(run.id, tags=sorted(tags | set(run.tags)))
        if report.outcome != NOTHING:
            key, markdown = artifact_of(report)
            await connection.client.create_artifact(
                ArtifactCreate(
                    type="markdown",
                    key=key,
                    description=report.reason or None,
                    flow_run_id=run.id if run else None,
                    data=markdown,
                )
            )
