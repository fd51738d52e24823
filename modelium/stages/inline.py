"""Steps and stages without Prefect: run here and now, with the same retries."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from modelium.clock import SystemClock
from modelium.errors import TransientError
from modelium.models import Report
from modelium.ports import Clock, Stage
from modelium.stages.services import Services

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

StageFunction = Callable[..., Awaitable[Report]]
"""``async def stage(services, *, …, steps) -> Report``."""

Stages = Mapping[Stage, StageFunction]
"""All six, by name."""

RETRIES = 3
"""Further attempts of a step. With the delays below a hiccup of some 10 s is bridged; what
lasts longer is for the control loop, which starts the stage again."""

RETRY_DELAYS_S = (1.0, 2.0, 4.0)
"""Before each further attempt: doubling, as of `RETRIES`."""

RETRY_JITTER = 0.5
"""Each delay is stretched by up to this share, so that many stages do not retry in step."""


class InlineSteps:
    """`ports.Steps` that runs each step in the stage's own task, retried on `TransientError`."""

    def __init__(self, *, clock: Clock, jitter: random.Random) -> None:
        """``jitter`` is seeded by whoever needs the same delays twice."""
        self._clock = clock
        self._jitter = jitter

    async def __call__(
        self, name: str, step: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run ``step``; its last error is raised unchanged."""
        for delay in RETRY_DELAYS_S:
            try:
                return await step(*args, **kwargs)
            except TransientError as exc:
                wait = delay * (1 + RETRY_JITTER * self._jitter.random())
                logger.info("step %s will be tried again in %.1f s: %s", name, wait, exc)
                await self._clock.sleep(wait)
        return await step(*args, **kwargs)


inline_steps = InlineSteps(clock=SystemClock(), jitter=random.Random())  # noqa: S311 - not a secret
"""The default `Steps` of all stages."""


class InlineRunner:
    """Runs stages in the caller's task: no history, no retries of whole stages."""

    def __init__(self, *, stages: Stages, services: Callable[[], Services]) -> None:
        """``services`` is called at each run, in the caller's context."""
        self._stages = stages
        self._services = services

    async def run(self, stage: Stage, **parameters: Any) -> Report:
        """Run ``stage`` to its end; raises what the stage raises."""
        return await self._stages[stage](self._services(), **parameters, steps=inline_steps)
