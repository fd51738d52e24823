"""Times of day at which a model is asked, over the last days."""

from __future__ import annotations

import pytest

from modelium.models import Habit
from modelium.traffic.daily_pattern import DAYS, merge, with_request
from modelium.traffic.daily_pattern import days_begun as asked

MIDNIGHT = 20_000 * 86400.0
HOUR, DAY = 3600.0, 86400.0


def at(*times: float) -> Habit:
    habit = Habit()
    for t in times:
        habit = with_request(habit, t)
    return habit


def nightly(days: int) -> Habit:
    """Requested at half past two, ``days`` days in a row up to yesterday."""
    return at(*(MIDNIGHT - k * DAY + 2.5 * HOUR for k in range(days, 0, -1)))


def test_days_on_which_it_was_asked_at_this_time_are_counted() -> None:
    just_before = MIDNIGHT + 2.5 * HOUR - 50
    seen = asked(nightly(5), now=just_before, within_s=60, since=MIDNIGHT - 5 * DAY)
    assert seen == (5, 5)
    not_yet = asked(nightly(5), now=just_before - HOUR, within_s=60, since=MIDNIGHT - 5 * DAY)
    assert not_yet == (0, 5)


def test_a_day_without_counts_too_and_a_week_is_remembered() -> None:
    habit = at(*(MIDNIGHT - k * DAY + 2.5 * HOUR for k in (12, 11, 6, 5, 2)))
    now = MIDNIGHT + 2.5 * HOUR
    assert asked(habit, now=now, within_s=60, since=MIDNIGHT - 20 * DAY) == (3, DAYS)


def test_hours_of_requests_are_expected_at_their_beginning_alone() -> None:
    office = [MIDNIGHT - k * DAY + h * HOUR for k in (5, 4, 3, 2, 1) for h in (9, 9.25, 9.5, 9.75)]
    habit = at(*office)
    found = {
        h: asked(habit, now=MIDNIGHT + h * HOUR - 30, within_s=60, since=MIDNIGHT - 5 * DAY)[0]
        for h in (8.75, 9, 9.5, 10)
    }
    assert found == {8.75: 0, 9: 5, 9.5: 0, 10: 0}


def test_a_clock_that_was_far_ahead_once_spoils_no_later_habit() -> None:
    habit = with_request(nightly(5), MIDNIGHT + 400 * DAY)
    for k in range(4):
        habit = with_request(habit, MIDNIGHT + k * DAY + 2.5 * HOUR)
    now = MIDNIGHT + 4 * DAY + 2.5 * HOUR
    assert asked(habit, now=now, within_s=60, since=MIDNIGHT) == (4, 4)


def test_two_days_are_no_habit() -> None:
    now = MIDNIGHT + 2.5 * HOUR
    assert asked(nightly(2), now=now, within_s=60, since=MIDNIGHT - 2 * DAY) == (0, 0)
    assert asked(Habit(), now=now, within_s=60, since=0.0) == (0, 0)


def test_what_came_today_already_is_not_expected_again() -> None:
    now = MIDNIGHT + 2.5 * HOUR + 100
    habit = with_request(nightly(5), now - 50)
    assert asked(habit, now=now, within_s=60, since=MIDNIGHT - 5 * DAY) == (0, 5)


def test_the_time_may_reach_over_midnight() -> None:
    habit = at(*(MIDNIGHT - k * DAY + 60 for k in (4, 3, 2, 1)))
    seen = asked(habit, now=MIDNIGHT - 30, within_s=120, since=MIDNIGHT - 4 * DAY)
    assert seen == (3, 3)


def test_an_older_request_is_noted_where_it_belongs() -> None:
    times = [MIDNIGHT - k * DAY + 2.5 * HOUR for k in (3, 1, 2)]
    assert at(*times) == at(*sorted(times))


@pytest.mark.parametrize("first", [0, 1])
def test_two_histories_become_one(first: int) -> None:
    parts = [at(MIDNIGHT - 3 * DAY + HOUR), at(MIDNIGHT - DAY + HOUR, MIDNIGHT - DAY + 5 * HOUR)]
    whole = at(MIDNIGHT - 3 * DAY + HOUR, MIDNIGHT - DAY + HOUR, MIDNIGHT - DAY + 5 * HOUR)
    assert merge(parts[first], parts[1 - first]) == whole
    assert merge(whole, Habit()) == whole
