"""Steps and stages without Prefect."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from modelium.errors import InputError, Unavailable
from modelium.models import Report
from modelium.stages.inline import (
    RETRIES,
    RETRY_DELAYS_S,
    RETRY_JITTER,
    InlineRunner,
    InlineSteps,
)
from modelium.stages.services import Services
from tests.fakes.clock import FakeClock


class Failing:
    """A step that fails ``times`` times, then answers."""

    def __init__(self, error: Exception, times: int) -> None:
        self.calls = 0
        self._error = error
        self._times = times

    async def __call__(self, word: str) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return word


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def steps(clock: FakeClock) -> InlineSteps:
    return InlineSteps(clock=clock, jitter=random.Random(7))


async def test_a_step_gets_its_arguments_and_returns_its_result(steps: InlineSteps) -> None:
    assert await steps("say", Failing(Unavailable("-"), 0), word="yes") == "yes"


async def test_a_transient_failure_is_retried_with_growing_delays(
    steps: InlineSteps, clock: FakeClock
) -> None:
    step = Failing(Unavailable("not yet"), 2)
    assert await steps("say", step, "yes") == "yes"
    assert step.calls == 3
    for slept, delay in zip(clock.slept, RETRY_DELAYS_S, strict=False):
        assert delay <= slept <= delay * (1 + RETRY_JITTER)
    assert clock.slept == sorted(clock.slept)


async def test_the_last_transient_error_is_raised_unchanged(steps: InlineSteps) -> None:
    error = Unavailable("never", retry_after_s=9)
    step = Failing(error, 99)
    with pytest.raises(Unavailable) as caught:
        await steps("say", step, "yes")
    assert caught.value is error
    assert step.calls == 1 + RETRIES


async def test_what_the_caller_must_fix_is_not_retried(
    steps: InlineSteps, clock: FakeClock
) -> None:
    step = Failing(InputError("wrong"), 1)
    with pytest.raises(InputError):
        await steps("say", step, "yes")
    assert step.calls == 1
    assert clock.slept == []


def runner_of(stage: Any) -> InlineRunner:
    return InlineRunner(stages={"load": stage}, services=lambda: cast(Services, "services"))


async def test_run_gives_a_stage_services_parameters_and_steps() -> None:
    async def load(services: Any, *, model: str, steps: Any) -> Report:
        assert services == "services"
        assert await steps("say", Failing(Unavailable("-"), 0), model) == model
        return Report(stage="load", outcome="ready", model=model)

    assert (await runner_of(load).run("load", model="a")).model == "a"
