"""What all six flows share: run the stage, record what came of it where people look."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State
from prefect.context import AsyncClientContext, FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from flows.runner.artifact import artifact_of
from flows.runner.stage_call import StageCall, current
from flows.runner.task_steps import TaskSteps
from flows.runner.turns import turn
from modelium.errors import ModeliumError
from modelium.models import Report

RECORD_S = 10.0
"""For artifact and tags; the stage's result does not wait for them."""

NOTHING = "nothing"
"""The outcome of a sweep that had nothing to do: its state says so, an artifact would not help."""


async def record(**parameters: Any) -> State[Any]:
    """Run the stage of this flow run with ``parameters``; returns the run's final state.

    Raises:
        RuntimeError: outside the Modelium service.
    """
    call = current.get(None)
    if call is None:
        raise RuntimeError(
            "this flow runs inside the Modelium service: start it with `modelium up`, then "
            "`prefect deployment run` from anywhere"
        )
    call.begin(TaskSteps(), parameters)
    own = turn.get()
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
        log.error("%s", state.message, exc_info=_unmeant(call))
    if call.outcome.exception() is None:
        try:
            async with asyncio.timeout(RECORD_S):
                await _show(call, call.outcome.result())
        except Exception:
            log.warning("tags or artifact of this run are missing", exc_info=True)
    return state


def state_of(call: StageCall) -> State[Any]:
    """The final state that tells how ``call`` ended; its outcome must be there."""
    error = call.outcome.exception()
    if error is None:
        report = call.outcome.result()
        return Completed(message=": ".join(filter(None, (report.outcome, report.reason))))
    if call.cancelled:
        return Cancelled(message=call.cancelled)
    kind = error.reason if isinstance(error, ModeliumError) else type(error).__name__
    return Failed(message=f"{kind}: {error}")


def _unmeant(call: StageCall) -> BaseException | None:
    """The error of a bug, whose traceback is wanted."""
    error = call.outcome.exception()
    return None if isinstance(error, ModeliumError) else error


def tags_of(parameters: Mapping[str, Any]) -> set[str]:
    """Tags that are known before the stage runs."""
    named = [parameters.get("model"), *(parameters.get("models") or ())]
    return {f"model:{name}" for name in named if name}


async def _show(call: StageCall, report: Report) -> None:
    tags = tags_of(call.parameters) | {f"device:{device}" for device in report.devices}
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
