"""Somebody sets the clock by a day; no model is unloaded or kept waiting for it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelium.clock import SteadyClock
from modelium.control.recovery import recover
from modelium.errors import LoadFailed
from modelium.lifecycle import ModelState
from modelium.models import Trigger
from modelium.policy.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S
from modelium.stages.evict import evict
from modelium.stages.load import load
from modelium.stages.snapshot import snapshot
from tests.fakes.clock import FakeClock
from tests.modelium.conftest import World

pytestmark = pytest.mark.slow

DAY_S = 86_400.0

both_ways = pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])


class Steady(FakeClock):
    """A clock as the service has it, over a wall clock that a test sets with `step`."""

    def __init__(self) -> None:
        super().__init__()
        self._steady = SteadyClock(wall=super().time, elapsed=self.monotonic)

    def time(self) -> float:
        return self._steady.time()

    def system_time(self) -> float:
        return self._steady.system_time()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    opened = World(tmp_path, Steady())
    await opened.services.runtime_monitor.observe({})
    yield opened
    await opened.aclose()


@both_ways
def test_a_step_is_told_once_and_not_followed(
    step_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeClock()
    clock = SteadyClock(wall=fake.time, elapsed=fake.monotonic)
    before = clock.time()
    fake.step(step_s)
    fake.advance(7)
    with caplog.at_level(logging.WARNING):
        assert clock.time() == pytest.approx(before + 7, abs=0.01)
        clock.time()
    (told,) = caplog.messages
    assert f"{'forward' if step_s > 0 else 'back'} by 86400 s" in told


@both_ways
async def test_a_model_in_use_stays_and_an_idle_one_goes(world: World, step_s: float) -> None:
    await world.load()
    await world.request()
    world.clock.advance(5)
    world.clock.step(step_s)
    fleet = await snapshot(world.services)
    assert fleet.models_by_name["tiny"].idle_s(fleet.at) == pytest.approx(5, abs=0.1)
    await world.launcher.decide(trigger=Trigger.SWEEP)
    assert world.store.model("tiny").state is ModelState.READY
    world.clock.advance(world.services.policy.auto_unload_after_s)
    await world.launcher.decide(trigger=Trigger.SWEEP)
    assert world.store.model("tiny").state is ModelState.UNLOADED


@both_ways
async def test_a_pause_is_as_long_as_it_was(world: World, step_s: float) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.failure = LoadFailed("no")
    with pytest.raises(LoadFailed):
        await load(world.services, model="tiny", steps=world.steps)
    world.clock.step(step_s)
    retry_at = world.store.model("tiny").retry_at
    assert retry_at is not None
    assert retry_at - world.clock.time() == pytest.approx(FIRST_PAUSE_S, abs=0.1)
    world.runtime.failure = None
    await world.launcher.decide(trigger=Trigger.UPKEEP)
    assert world.store.model("tiny").state is ModelState.FAILED
    world.clock.advance(max(FIRST_PAUSE_S, world.services.policy.reload_cooldown_s))
    await world.launcher.decide(trigger=Trigger.UPKEEP)
    await world.settled("tiny", "ready")


async def test_times_of_a_life_with_a_later_clock_are_corrected_at_the_start(
    tmp_path: Path,
) -> None:
    """A plain clock: the store's times are those of before it was set back."""
    world = World(tmp_path)
    await world.services.runtime_monitor.observe({})
    await world.load("other")
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.failure = LoadFailed("no")
    with pytest.raises(LoadFailed):
        await load(world.services, model="tiny", steps=world.steps)
    world.clock.step(-DAY_S)
    await recover(world.services)
    now = world.clock.time()
    failed, ready = world.store.model("tiny"), world.store.model("other")
    assert failed.retry_at is not None and failed.evicted_at is not None
    assert failed.retry_at <= now + LONGEST_PAUSE_S and failed.evicted_at <= now
    assert ready.deployment is not None and ready.deployment.ready_at is not None
    assert max(ready.deployment.ready_at, ready.deployment.started_at, ready.state_since) <= now
    await world.aclose()
