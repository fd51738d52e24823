"""When a request is expected soon enough to load a model ahead, and what is said of it."""

from __future__ import annotations

import pytest

from agents.rules.prewarming import expected_soon
from modelium.models import Traffic
from modelium.traffic.daily_pattern import with_request
from tests.fakes.fleets import NOW

BEFORE, AFTER = (0,) * 10, (0,) * 4


def silent_since_now(ending_within_1200_s: int, later: int) -> Traffic:
    """Gaps of 600 to 1200 s, and of 1200 to 1800 s; the silence has just begun."""
    counts = (*BEFORE, ending_within_1200_s, later, *AFTER)
    return Traffic(first_request_at=NOW - 50, last_request_at=NOW, intervals=counts)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((35, 65), (0.35, "35% of its past gaps like this ended within 1200 s")),
        ((34, 66), (0.0, "")),
    ],
)
def test_a_third_of_the_gaps_have_to_end_within_the_load_and_a_minute(
    counts: tuple[int, int], expected: tuple[float, str]
) -> None:
    chance, why = expected_soon(silent_since_now(*counts), now=NOW, load_s=1140.0)
    assert (pytest.approx(chance), why) == expected


def test_a_model_that_was_never_requested_is_not_expected() -> None:
    assert expected_soon(Traffic(), now=NOW, load_s=30.0) == (0.0, "")


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ((1, 2), (0.5, "requests began at this time on 2 of the last 4 days")),
        ((1, 2, 3), (0.75, "requests began at this time on 3 of the last 4 days")),
        ((1,), (0.0, "")),
        ((), (0.0, "")),
    ],
)
def test_requests_have_to_begin_at_this_time_on_half_of_the_days(
    begun: tuple[int, ...], expected: tuple[float, str]
) -> None:
    habit = with_request(Traffic().habit, NOW - 4 * 86_400 + 7200)  # at another time
    for days in begun:
        habit = with_request(habit, NOW + 30 - days * 86_400)
    seen = Traffic(
        first_request_at=NOW - 4 * 86_400 + 7200, last_request_at=NOW - 40_000, habit=habit
    )
    assert expected_soon(seen, now=NOW, load_s=30.0) == expected


def test_too_few_known_days_are_no_habit() -> None:
    habit = with_request(Traffic().habit, NOW + 30 - 86_400)
    seen = Traffic(first_request_at=NOW - 86_400, last_request_at=NOW - 86_370, habit=habit)
    assert expected_soon(seen, now=NOW, load_s=30.0) == (0.0, "")


def test_the_habit_counts_within_the_load_and_a_minute() -> None:
    habit = Traffic().habit
    begins = NOW - NOW % 900 + 900  # the next quarter of an hour
    for days in (4, 3, 2, 1):
        habit = with_request(habit, begins - days * 86_400)
    seen = Traffic(
        first_request_at=begins - 4 * 86_400, last_request_at=begins - 86_400, habit=habit
    )
    ahead = begins - 100
    assert expected_soon(seen, now=ahead, load_s=40.0)[0] == 1.0
    assert expected_soon(seen, now=ahead, load_s=39.0)[0] == 0.0
