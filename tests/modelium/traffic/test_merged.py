"""The traffic of one model over several gateways."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelium.models import Habit, Priority, Traffic
from modelium.traffic.daily_pattern import SLOTS
from modelium.traffic.merged import merged

COUNT = st.integers(0, 10_000)
RATE = st.floats(0, 1000)
MAYBE = st.none() | st.floats(0.001, 1000)

SUMS = ("in_flight", "pending", "completed", "failed", "direct", "queued", "sized")
RATES = ("qps", "qps_last_hour", "prompt_tokens_per_s", "generated_tokens_per_s", "ended_per_s")
BETWEEN = ("latency_p50_s", "latency_p99_s", "queue_s")


@st.composite
def traffic(draw: st.DrawFn) -> Traffic:
    fields: dict[str, Any] = {name: draw(COUNT) for name in SUMS}
    fields |= {name: draw(RATE) for name in RATES}
    fields |= {name: draw(MAYBE) for name in BETWEEN}
    return Traffic(
        **fields,
        pending_priority=draw(st.none() | st.sampled_from(Priority)),
        first_request_at=draw(MAYBE),
        last_request_at=draw(MAYBE),
        rates=tuple(draw(st.lists(RATE, min_size=4, max_size=4))),
        intervals=tuple(draw(st.lists(COUNT, min_size=16, max_size=16))),
        concurrency=draw(RATE),
        longest_tokens=draw(COUNT),
        gpu_utilization=draw(st.none() | st.floats(0, 1)),
    )


PARTS = st.lists(traffic(), min_size=1, max_size=4)


@given(PARTS)
def test_nothing_is_lost_or_counted_twice(parts: list[Traffic]) -> None:
    whole = merged(parts)
    for name in SUMS:
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts)
    for name in RATES:
        assert math.isclose(getattr(whole, name), sum(getattr(part, name) for part in parts))
    assert whole.intervals == tuple(map(sum, zip(*(p.intervals for p in parts), strict=True)))
    assert sum(whole.rates) == pytest.approx(sum(sum(p.rates) for p in parts))


@given(PARTS)
def test_what_cannot_be_added_stays_within_its_bounds(parts: list[Traffic]) -> None:
    whole = merged(parts)
    for name in BETWEEN:
        known = [v for part in parts if (v := getattr(part, name)) is not None]
        found = getattr(whole, name)
        assert (found is None) == (not known)
        assert found is None or min(known) <= found <= max(known)
    if len(parts) > 1:
        least = max(*(part.concurrency for part in parts), whole.in_flight + whole.pending)
        assert whole.concurrency == least
    ranks = [part.pending_priority.rank for part in parts if part.pending_priority]
    assert (whole.pending_priority.rank if whole.pending_priority else None) == min(
        ranks, default=None
    )


@given(PARTS)
def test_neither_order_nor_idle_gateways_matter(parts: list[Traffic]) -> None:
    whole = merged([*parts, Traffic()])
    turned = merged([Traffic(), *reversed(parts)])
    for name in Traffic.model_fields:
        one, other = getattr(whole, name), getattr(turned, name)
        assert one == (pytest.approx(other) if isinstance(one, float | tuple) and one else other)


def test_habits_are_those_of_all_gateways() -> None:
    morning = Habit(day=10, slots=(0b11, *(0,) * (SLOTS - 1)))
    evening = Habit(day=11, slots=(*(0,) * (SLOTS - 1), 0b1))
    whole = merged([Traffic(habit=morning), Traffic(habit=evening)]).habit
    assert (whole.day, whole.slots[0], whole.slots[-1]) == (11, 0b110, 0b1)


def test_a_busy_gateways_latency_weighs_more_than_an_idle_ones() -> None:
    busy = Traffic(completed=255, latency_p50_s=1.0)
    idle = Traffic(completed=1, latency_p50_s=257.0)
    assert merged([busy, idle]).latency_p50_s == pytest.approx(2.0)


def test_no_gateway_no_traffic() -> None:
    assert merged([]) == Traffic()


def test_columns_of_another_version_of_modelium_are_left_out() -> None:
    both = merged([Traffic(rates=(1.0, 2.0)), Traffic(rates=(1.0, 2.0, 3.0)), Traffic()])
    assert both.rates == (1.0, 2.0, 3.0)
