"""Stages that count their outcomes in the metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from modelium.errors import ModeliumError
from modelium.models import Report
from modelium.stages.inline import StageFunction, Stages
from modelium.stages.services import Services


def instrumented(stages: Stages) -> Stages:
    """Return ``stages``, each of which counts its outcome when it ends."""
    return {stage: _instrumented(stage, function) for stage, function in stages.items()}


def _instrumented(stage: str, function: StageFunction) -> StageFunction:
    async def run(services: Services, **parameters: Any) -> Report:
        outcome = "bug"
        try:
            report = await function(services, **parameters)
            outcome = "completed"
        except ModeliumError as exc:
            outcome = exc.reason
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            services.telemetry.on_stage_finished(stage, outcome=outcome)
        return report

    return run
