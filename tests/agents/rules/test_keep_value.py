from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rules.keep_value import arrival_chance, hazard, keep_value
from modelium.models import GIB, MeasuredLoad, RuntimeName, Traffic
from modelium.models.load_time import load_seconds
from modelium.traffic.book import HORIZONS_S, INTERVAL_BOUNDS_S
from tests.fakes.fleets import NOW, loaded, model, profile

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


def test_a_model_that_was_never_requested_has_no_value() -> None:
    assert hazard(Traffic(), now=NOW) == 0.0
    assert keep_value(model("a"), now=NOW) == 0.0


def test_the_value_of_a_timer_rises_before_its_next_request() -> None:
    twenty_minutes = {10: 60}
    near = hazard(seen(1000, twenty_minutes), now=NOW)
    far = hazard(seen(30, twenty_minutes), now=NOW)
    assert near > far


def test_the_value_drops_to_a_hundredth_after_a_burst_and_further_without_a_next_one() -> None:
    burst = {0: 300, 1: 100, 13: 4}
    going_on, over, long_over = (hazard(seen(s, burst), now=NOW) for s in (1, 10, 8000))
    assert over < going_on / 100
    assert long_over < over / 10


def test_more_requests_give_more_value() -> None:
    assert hazard(seen(60, {}, 500), now=NOW) > hazard(seen(60, {}, 5), now=NOW)


@given(
    idle=st.floats(0, 1e7),
    count=st.floats(0, 1e9),
    gaps=st.lists(st.integers(0, 10**9), min_size=BUCKETS, max_size=BUCKETS),
)
def test_a_value_is_always_finite(idle: float, count: float, gaps: list[int]) -> None:
    traffic = seen(idle, dict(enumerate(gaps)), count)
    assert 0 <= hazard(traffic, now=NOW) < math.inf
    assert 0 <= arrival_chance(traffic, now=NOW, within_s=60) <= 1


def test_histograms_of_another_shape_are_ignored() -> None:
    odd = seen(60, {}).model_copy(update={"intervals": (1, 2, 3)})
    assert hazard(odd, now=NOW) == hazard(seen(60, {}), now=NOW)
    assert arrival_chance(odd, now=NOW, within_s=60) == 0.0


def test_few_silences_are_no_evidence() -> None:
    assert arrival_chance(seen(700, {10: 4}), now=NOW, within_s=500) == 0.0
    assert arrival_chance(seen(700, {10: 400}), now=NOW, within_s=500) == 1.0


def test_load_seconds_are_measured_else_deployed_else_estimated() -> None:
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
