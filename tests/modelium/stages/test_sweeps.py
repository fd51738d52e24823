"""Idle models are swept by Prefect's schedule, or by the loop where there is none."""

from __future__ import annotations

import pytest

from modelium.models import Trigger
from modelium.stages.sweeps import DEFAULT_PACE_S, SLACK_S, Schedule, Sweeps

SWEEP, UPKEEP = Trigger.SWEEP, Trigger.UPKEEP


def following(schedule: Schedule) -> Sweeps:
    sweeps = Sweeps(scheduled=True)
    sweeps.follow(schedule)
    return sweeps


def test_without_prefect_every_tick_sweeps() -> None:
    sweeps = Sweeps()
    sweeps.pause(5.0)
    sweeps.note(100.0)
    assert sweeps.trigger(100.0) is SWEEP
    assert sweeps.paused_since is None


def test_prefects_runs_sweep_while_it_answers() -> None:
    sweeps = following(Schedule(interval_s=60.0))
    assert sweeps.trigger(60.0) is UPKEEP
    assert sweeps.trigger(120.0 + SLACK_S - 1) is UPKEEP


def test_the_loop_sweeps_where_prefects_runs_do_not_arrive() -> None:
    sweeps = following(Schedule(interval_s=60.0))
    assert sweeps.trigger(120.0 + SLACK_S) is SWEEP
    sweeps.note(120.0 + SLACK_S)
    assert sweeps.trigger(120.0 + SLACK_S + 1) is UPKEEP


def test_a_schedule_that_is_no_interval_is_never_late() -> None:
    assert following(Schedule()).trigger(1e9) is UPKEEP


@pytest.mark.parametrize(("interval_s", "pace_s"), [(900.0, 900.0), (None, DEFAULT_PACE_S)])
def test_the_loop_keeps_the_pace_while_prefect_is_away(
    interval_s: float | None, pace_s: float
) -> None:
    sweeps = following(Schedule(interval_s=interval_s))
    sweeps.follow(None)
    assert sweeps.trigger(pace_s - 1) is UPKEEP
    assert sweeps.trigger(pace_s) is SWEEP


def test_a_pause_holds_until_it_is_resumed_even_while_prefect_is_away() -> None:
    sweeps = following(Schedule(paused_since=1000.0))
    assert sweeps.trigger(1e9) is UPKEEP
    sweeps.follow(None)
    assert sweeps.trigger(1e9) is UPKEEP
    sweeps.follow(Schedule(interval_s=60.0))
    assert sweeps.paused_since is None
    assert sweeps.trigger(1e9) is SWEEP


def test_a_pause_began_when_it_was_first_seen() -> None:
    sweeps = following(Schedule(paused_since=1000.0))
    sweeps.follow(Schedule(paused_since=1500.0))
    assert sweeps.paused_since == 1000.0


def test_a_restart_takes_up_the_pause_that_was_stored() -> None:
    sweeps = Sweeps(scheduled=True)
    sweeps.pause(1000.0)
    assert sweeps.trigger(1e9) is UPKEEP


def test_before_prefect_was_ever_heard_the_loop_keeps_the_pace() -> None:
    sweeps = Sweeps(scheduled=True, now=1000.0)
    assert sweeps.trigger(1000.0 + DEFAULT_PACE_S - 1) is UPKEEP
    assert sweeps.trigger(1000.0 + DEFAULT_PACE_S) is SWEEP


def test_a_pause_is_kept_in_whole_seconds() -> None:
    sweeps = following(Schedule(paused_since=1000.7))
    assert sweeps.paused_since == 1000.0
    sweeps.pause(None)
    sweeps.pause(2000.2)
    assert sweeps.paused_since == 2000.0
