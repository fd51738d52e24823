from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.rules.keep_value import (
    arrival_chance,
    backlog_factor,
    hazard,
    keep_value,
    loss_per_byte,
)
from modelium.models import GIB, MeasuredLoad, Priority, RuntimeName, Traffic
from modelium.models.load_time import load_seconds
from modelium.traffic.tally import HORIZONS_S, INTERVAL_BOUNDS_S
from tests.fakes.fleets import NOW, loaded, model, profile

BUCKETS = len(INTERVAL_BOUNDS_S) + 1
EDGES = (0, *INTERVAL_BOUNDS_S, 86_400)


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
    assert hazard(Traffic(first_request_at=NOW), now=NOW) == 0.0
    assert hazard(Traffic(last_request_at=NOW), now=NOW) == 0.0
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


def known(idle_s: float, since_s: float, **given: Any) -> Traffic:
    return Traffic(first_request_at=NOW - since_s, last_request_at=NOW - idle_s, **given)


def prior(idle_s: float, since_s: float, rates: tuple[float, ...]) -> float:
    """The formula of docs/planner.md, written as a product."""
    found = 0.1 / (1 + idle_s / 3600)
    weights = (0.28, 1.27, 0.48, -0.15)
    for rate, horizon, weight in zip(rates, (60, 300, 3600, 86_400), weights, strict=True):
        span = horizon * (1 - math.exp(-(since_s + 30) / horizon))
        found *= ((rate * horizon + 2.4) / span) ** weight
    return found


@pytest.mark.parametrize(("idle_s", "since_s"), [(0, 0), (360, 970), (5000, 200_000)])
@pytest.mark.parametrize("rates", [(0.0,) * 4, (0.5, 0.25, 0.01, 0.002)])
def test_the_prior_is_the_documented_product(
    idle_s: float, since_s: float, rates: tuple[float, ...]
) -> None:
    found = hazard(known(idle_s, since_s, rates=rates), now=NOW)
    assert found == pytest.approx(prior(idle_s, since_s, rates), rel=1e-9)


def test_without_rates_the_silence_alone_counts() -> None:
    assert hazard(known(0, 50), now=NOW) == pytest.approx(0.1)
    assert hazard(known(3600, 5000), now=NOW) == pytest.approx(0.05)
    assert hazard(known(10_800, 20_000), now=NOW) == pytest.approx(0.025)


def test_requests_after_the_snapshot_are_taken_as_requests_now() -> None:
    rates = (0.5, 0.25, 0.01, 0.002)
    found = hazard(known(-100, -50, rates=rates, intervals=(3,) * BUCKETS), now=NOW)
    assert found == hazard(known(0, 0, rates=rates, intervals=(3,) * BUCKETS), now=NOW)
    ahead = known(-500, -50, intervals=(9,) * BUCKETS)
    at_once = known(0, 0, intervals=(9,) * BUCKETS)
    chances = [arrival_chance(t, now=NOW, within_s=15) for t in (ahead, at_once)]
    assert chances[0] == chances[1] > 0


def test_five_silences_are_evidence_while_no_request_runs() -> None:
    def chance(**given: Any) -> float:
        fields = {"last_request_at": NOW, "intervals": (0,) * 10 + (5,) + (0,) * 5}
        return arrival_chance(Traffic(**{**fields, **given}), now=NOW, within_s=900)

    assert chance() == 0.5  # half of 600 to 1200 s
    assert chance(in_flight=1) == 0.0
    assert chance(last_request_at=None) == 0.0
    assert chance(intervals=(0,) * 10 + (4,) + (0,) * 5) == 0.0


@pytest.mark.parametrize(
    ("priority", "weight"), [(Priority.HIGH, 8), (Priority.MEDIUM, 2), (Priority.LOW, 1)]
)
@pytest.mark.parametrize(("load_s", "factor"), [(30.0, 30**0.9), (1.0, 1.0), (0.2, 1.0)])
def test_the_value_is_weight_times_hazard_times_discounted_load_time(
    priority: Priority, weight: int, load_s: float, factor: float
) -> None:
    took = MeasuredLoad(
        runtime=RuntimeName.VLLM, device_kind="gpu", settings_digest="",
        per_device_bytes=1, load_s=load_s, at=1.0,
    )  # fmt: skip
    one = model("a", traffic=known(3600, 5000), priority=priority, measured=(took,))
    assert keep_value(one, now=NOW) == pytest.approx(weight * 0.05 * factor)


def test_the_loss_per_byte_falls_faster_than_the_size_grows() -> None:
    assert loss_per_byte(3.0, 1000) == pytest.approx(3.0 / 1000**1.22)
    assert loss_per_byte(3.0, 1) == loss_per_byte(3.0, 0) == 3.0


def lasting(age: float, gaps: list[int]) -> list[tuple[float, float, float]]:
    """Return how many gaps outlast ``age``, each bucket's with the rest of its interval."""
    return [
        (count * max(0.0, high - max(low, age)) / (high - low), max(low, age), float(high))
        for low, high, count in zip(EDGES, EDGES[1:], gaps, strict=False)
    ]


def index(age: float, gaps: list[int], before: float) -> float:
    """The Gittins index of docs/planner.md, over every stopping time that ends a bucket."""
    best = before
    for stop in EDGES[1:]:
        if stop < age:
            continue
        ended = [(n, (low + high) / 2) for n, low, high in lasting(age, gaps) if high <= stop]
        longer = sum(n for n, _, high in lasting(age, gaps) if high > stop)
        requests = 0.04 + sum(n for n, _ in ended)
        waited = 0.04 / before + sum(n * (at - age) for n, at in ended) + longer * (stop - age)
        best = max(best, requests / waited)
    return best


AGES = st.one_of(st.floats(0, 100), st.floats(0, 100_000), st.sampled_from(EDGES))
FEW_GAPS = st.lists(st.sampled_from((0, 0, 0, 1, 7, 200)), min_size=BUCKETS, max_size=BUCKETS)


@settings(max_examples=50)
@given(age=AGES, gaps=FEW_GAPS, rate=st.sampled_from((0.0, 0.0001, 0.1)))
@example(age=900.0, gaps=[0] * 10 + [8, 0, 4, 0, 0, 0], rate=0.0)
@example(age=15.0, gaps=[0] * 4 + [8, 6] + [0] * 10, rate=0.0)
def test_the_hazard_is_the_documented_index_of_the_models_own_gaps(
    age: float, gaps: list[int], rate: float
) -> None:
    rates = (rate,) * 4
    traffic = Traffic(
        first_request_at=-300_000.0, last_request_at=-age, rates=rates, intervals=tuple(gaps)
    )
    before = prior(age, 300_000.0, rates)
    assert hazard(traffic, now=0.0) == pytest.approx(index(age, gaps, before), rel=1e-9)


@settings(max_examples=50)
@given(age=AGES, gaps=FEW_GAPS, within_s=st.floats(0, 10_000))
def test_the_chance_is_the_share_of_longer_gaps_that_ended_in_time(
    age: float, gaps: list[int], within_s: float
) -> None:
    traffic = Traffic(last_request_at=-age, intervals=tuple(gaps))
    before, after = (sum(n for n, *_ in lasting(a, gaps)) for a in (age, age + within_s))
    expected = 1 - after / before if before >= 5 else 0.0
    assert arrival_chance(traffic, now=0.0, within_s=within_s) == pytest.approx(expected, abs=1e-9)


@given(
    idle=st.floats(0, 1e7),
    count=st.floats(0, 1e9),
    gaps=st.lists(st.integers(0, 10**9), min_size=BUCKETS, max_size=BUCKETS),
)
def test_a_value_is_always_finite(idle: float, count: float, gaps: list[int]) -> None:
    traffic = seen(idle, dict(enumerate(gaps)), count)
    assert 0 <= hazard(traffic, now=NOW) < math.inf
    assert 0 <= arrival_chance(traffic, now=NOW, within_s=60) <= 1


@pytest.mark.parametrize(
    ("queue_s", "latency_s", "factor"),
    [
        (None, 2.0, 1.0),
        (0.0, 2.0, 1.0),
        (1.0, None, 1.0),
        (1.0, 2.0, 2.0),
        (0.5, 2.5, 1.25),
        (3.0, 4.0, 4.0),
        (9.0, 10.0, 4.0),
        (2.0, 2.0, 4.0),
        (3.0, 2.0, 4.0),
    ],
)
def test_a_model_whose_requests_queue_is_worth_more_by_its_load(
    queue_s: float | None, latency_s: float | None, factor: float
) -> None:
    traffic = seen(60, {}).model_copy(update={"queue_s": queue_s, "latency_p50_s": latency_s})
    assert backlog_factor(traffic) == factor
    plain = keep_value(model("a", traffic=seen(60, {})), now=NOW)
    assert keep_value(model("a", traffic=traffic), now=NOW) == pytest.approx(factor * plain)
