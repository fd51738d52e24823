"""Starts stages as recorded Prefect runs in this process, or directly when Prefect is away."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from flows.runner.executor import Executor
from flows.runner.stage_call import StageCall
from modelium.models import Report
from modelium.ports import Stage
from modelium.stages.inline import Stages, direct
from modelium.stages.services import Services

UNRECORDED = frozenset({"plan", "carry_out"})
"""Parameters of decide that only this process may give: nobody may book a plan through Prefect
that nobody carries out."""

PATIENCE_S = 2.0
"""How long a stage waits for its flow run to begin. A tenth of it is usual; after this the
stage begins without it, and the run joins when it gets there."""


class PrefectRunner:
    """Runs stages and records them. A stage never waits long for Prefect, nor fails by it."""

    def __init__(
        self, *, executor: Executor, stages: Stages, services: Callable[[], Services]
    ) -> None:
        """``services`` is asked at each run, in the caller's context."""
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
            prompt = self._executor.prompt
            recorded = self._executor.submit(call)
            if recorded and prompt and not await call.wait_begun(timeout_s=PATIENCE_S):
                self._executor.doubt()
            call.begin(direct)
            return await call.wait()
        except asyncio.CancelledError:
            call.cancel("the caller stopped waiting for it")
            await call.wait_done()
            raise
