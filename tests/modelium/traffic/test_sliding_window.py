"""Counting recent events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelium.traffic.sliding_window import SlidingWindow


@given(st.lists(st.floats(0, 500), max_size=60))
def test_rate_equals_a_count_over_the_slots(gaps: list[float]) -> None:
    now = 10_000.0
    window = SlidingWindow(now, slots=60, width_s=1.0)
    at: list[float] = []
    for gap in gaps:
        now += gap
        window.add(now)
        at.append(now)
    if at:
        within = sum(int(now) - int(moment) < 60 for moment in at)
        assert window.rate(now) == pytest.approx(within / 60)


def test_events_that_are_spread_leave_the_window_evenly() -> None:
    window = SlidingWindow(0.0, slots=10, width_s=6.0)
    window.spread(0.0, 120.0)
    assert window.rate(0.0) == pytest.approx(2.0)
    assert window.rate(30.0) == pytest.approx(1.0)
    assert window.rate(60.0) == 0.0
