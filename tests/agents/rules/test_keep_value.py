from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rules.keep_value import arrival_chance, hazard, keep_value
from agents.rules.ranking import priority_class, rank, waiting_class
from modelium.lifecycle import ModelState
from modelium.models import GIB, MeasuredLoad, Priority, RuntimeName, Traffic
from modelium.models.load_time import load_seconds
from modelium.traffic.book import HORIZONS_S, INTERVAL_BOUNDS_S
from tests.fakes.fleets import NOW, loaded, model, policy, profile

BUCKETS = len(INTERVAL_BOUNDS_S) + 1


def seen(idle_s: float, gaps: dict[int, int], count: float = 50) -> Traffic:
    """``count`` requests spread over a day, the last ``idle_s`` ago; bucket → gaps."""
    rates = [count / 86_400 * math.exp(-idle_s / horizon) for horizon in HORIZONS_S]
    return Traffic(
        first_request_at=NOW - 86_400,
        last_request_at=NOW - idle_s,
        rates=tuple(rates),
        intervals=tuple(gaps.get(i, 0) for i in range(BUCKETS)),
    )


def test_a_model_never_asked_for_is_worth_nothing() -> None:
    assert hazard(Traffic(), now=NOW) == 0.0
    assert keep_value(model("a"), now=NOW) == 0.0


def test_a_timer_is_worth_more_as_it_comes_near() -> None:
    twenty_minutes = {10: 60}
    near = hazard(seen(1000, twenty_minutes), now=NOW)
    far = hazard(seen(30, twenty_minutes), now=NOW)
    assert near > far


def test_a_burst_is_worth_a_hundredth_once_it_is_over_and_less_once_no_next_one_came() -> None:
    burst = {0: 300, 1: 100, 13: 4}
    going_on, over, long_over = (hazard(seen(s, burst), now=NOW) for s in (1, 10, 8000))
    assert over < going_on / 100
    assert long_over < over / 10


def test_more_requests_are_worth_more() -> None:
    assert hazard(seen(60, {}, 500), now=NOW) > hazard(seen(60, {}, 5), now=NOW)


@given(
    idle=st.floats(0, 1e7),
    count=st.floats(0, 1e9),
    gaps=st.lists(st.integers(0, 10**9), min_size=BUCKETS, max_size=BUCKETS),
)
def test_a_value_is_always_a_number(idle: float, count: float, gaps: list[int]) -> None:
    traffic = seen(idle, dict(enumerate(gaps)), count)
    assert 0 <= hazard(traffic, now=NOW) < math.inf
    assert 0 <= arrival_chance(traffic, now=NOW, within_s=60) <= 1


def test_histograms_of_another_shape_are_left_out() -> None:
    odd = seen(60, {}).model_copy(update={"intervals": (1, 2, 3)})
    assert hazard(odd, now=NOW) == hazard(seen(60, {}), now=NOW)
    assert arrival_chance(odd, now=NOW, within_s=60) == 0.0


def test_few_silences_say_nothing() -> None:
    assert arrival_chance(seen(700, {10: 4}), now=NOW, within_s=500) == 0.0
    assert arrival_chance(seen(700, {10: 400}), now=NOW, within_s=500) == 1.0


def test_the_last_measured_load_beats_the_deployments_and_the_estimate() -> None:
    measured = [
        MeasuredLoad(
            runtime=RuntimeName.VLLM,
            device_kind="gpu",
            settings_digest="",
            per_device_bytes=1,
            load_s=seconds,
            at=at,
        )
        for seconds, at in ((50.0, 1.0), (70.0, 2.0))
    ]
    assert load_seconds(loaded("a", "n/g0", measured=measured)) == 70
    assert load_seconds(loaded("a", "n/g0")) == 30
    bare = model("a", profile=profile(20))
    assert load_seconds(bare, RuntimeName.VLLM) == pytest.approx(40 + 20 * GIB / GIB)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, Priority.LOW),
        ({"team": "prod"}, Priority.MEDIUM),
        ({"team": "prod", "traffic": Traffic(first_request_at=1.0)}, Priority.HIGH),
        ({"team": "lab", "traffic": Traffic(first_request_at=1.0)}, Priority.LOW),
        ({"priority": Priority.HIGH}, Priority.HIGH),
        ({"priority": Priority.HIGH, "priority_ceiling": Priority.LOW}, Priority.LOW),
    ],
)
def test_the_class_is_the_seeds(given_: dict[str, object], expected: Priority) -> None:
    by = policy(high_priority_teams=frozenset({"prod"}))
    assert priority_class(model("a", **given_), by) is expected


def test_waiting_lifts_a_model_past_higher_classes() -> None:
    def key(name: str, queued_s: float, priority: Priority) -> tuple[float, ...]:
        one = model(name, state=ModelState.QUEUED, queued_at=NOW - queued_s, priority=priority)
        return rank(one, policy(), now=NOW, value=0.0)[:2]

    assert key("new", 5, Priority.HIGH) < key("old", 500, Priority.LOW)
    assert key("old", 2000, Priority.LOW) < key("new", 5, Priority.HIGH)


def test_who_asks_lifts_a_waiting_model_up_to_its_ceiling_for_as_long_as_they_wait() -> None:
    by = policy()
    asked = Traffic(pending=2, pending_priority=Priority.HIGH)
    plain, wanted = model("a"), model("b", traffic=asked)
    assert waiting_class(plain, by) is Priority.LOW
    assert waiting_class(wanted, by) is Priority.HIGH
    assert priority_class(wanted, by) is Priority.LOW
    capped = model("c", traffic=asked, priority_ceiling=Priority.MEDIUM)
    assert waiting_class(capped, by) is Priority.MEDIUM
    pending = model("d", traffic=Traffic(pending=2))
    assert rank(wanted, by, now=NOW, value=1.0) < rank(pending, by, now=NOW, value=1.0)
