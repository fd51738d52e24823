from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import (
    Habit,
    Load,
    Traffic,
    Trigger,
)
from modelium.traffic.daily_pattern import with_request
from tests.agents.rules.asking import ask
from tests.fakes.fleets import NOW, fleet, loaded, model


def prewarm_reason(seen: Traffic) -> str:
    """The reason of the sweep that loads a model with this traffic, where there is room alone."""
    soon = model("soon", state=ModelState.UNLOADED, traffic=seen)
    (load,) = ask(fleet(soon), Trigger.SWEEP).actions
    assert isinstance(load, Load)
    full = loaded("x", "n/g0", gib=65)
    assert ask(fleet(soon, full, gpus=1), Trigger.SWEEP).actions == ()
    return load.reason


def test_a_model_on_a_timer_is_prewarmed_into_free_memory_with_the_reason() -> None:
    every_20_minutes = Traffic(
        first_request_at=NOW - 86_400,
        last_request_at=NOW - 1100,
        rates=(0.0, 0.0, 0.0005, 0.0008),
        intervals=(0,) * 10 + (70,) + (0,) * 5,
    )
    assert "prewarm" in prewarm_reason(every_20_minutes)


def test_a_model_requested_daily_at_this_time_is_prewarmed_with_the_reason() -> None:
    habit = Habit()
    for days in (4, 3, 2, 1):
        habit = with_request(habit, NOW + 30 - days * 86_400)
    daily = Traffic(
        first_request_at=NOW + 30 - 4 * 86_400,
        last_request_at=NOW + 30 - 86_400,
        rates=(0.0,) * 4,
        habit=habit,
    )
    why = prewarm_reason(daily)
    assert "prewarmed: requests began at this time on 4 of the last 4 days" in why
