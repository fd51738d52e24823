"""Runs stages as recorded Prefect runs in this process, or directly while Prefect is down."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from flows.runner.executor import Executor
from flows.runner.stage_call import StageCall
from modelium.models import Report
from modelium.ports import Stage
from modelium.stages.inline import Stages, inline_steps
from modelium.stages.services import Services

UNRECORDED = frozenset({"plan", "carry_out"})
"""Parameters of decide that only this process may give: nobody may book a plan through Prefect
that nobody carries out."""

BEGIN_WAIT_S = 2.0
"""How long a stage waits for its flow run to begin. 0.2 s is usual; after this the stage begins,
and the run joins it later."""


class RecordedRunner:
    """Runs and records stages. Prefect never delays a stage for long, nor makes it fail."""

    def __init__(
        self, *, executor: Executor, stages: Stages, services: Callable[[], Services]
    ) -> None:
        """``services`` is called at each run, in the caller's context."""
        self._executor = executor
        self._stages = stages
        self._services = services

    async def run(self, stage: Stage, **parameters: Any) -> Report:
        """Run ``stage`` to its end; raises what the stage raises.

        Cancelling it cancels the stage and waits for its clean-up.

        Raises:
            PermanentError: an operator cancelled the run in Prefect.
        """
        unrecorded = {k: v for k, v in parameters.items() if k in UNRECORDED}
        call = StageCall(
            stage=stage,
            parameters={k: v for k, v in parameters.items() if k not in unrecorded},
            unrecorded=unrecorded,
            stages=self._stages,
            services=self._services,
            loop=asyncio.get_running_loop(),
            context=contextvars.copy_context(),
        )
        try:
            responsive = self._executor.responsive
            recorded = self._executor.submit(call)
            if recorded and responsive and not await call.wait_begun(timeout_s=BEGIN_WAIT_S):
                self._executor.mark_slow()
            call.begin(inline_steps)
            return await call.wait()
        except asyncio.CancelledError:
            call.cancel("the caller was cancelled")
            await call.wait_done()
            raise
