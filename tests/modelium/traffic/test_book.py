"""Counting requests."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelium.models import Habit, Traffic
from modelium.ports import EngineStats
from modelium.traffic.book import TrafficBook
from modelium.traffic.daily_pattern import SLOT_S
from modelium.traffic.tally import HORIZONS_S, INTERVAL_BOUNDS_S, LATENCIES_KEPT


class HandClock:
    """Stands where it was put."""

    def __init__(self) -> None:
        self.now = 10_000.0

    def time(self) -> float:
        return 1_700_000_000 + self.now

    def system_time(self) -> float:
        return self.time()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def book(clock: HandClock) -> TrafficBook:
    return TrafficBook(clock=clock)


def finish(
    book: TrafficBook, latency_s: float = 0.1, *, model: str = "m", failed: bool = False
) -> None:
    book.on_started(model)
    book.on_finished(model, latency_s=latency_s, failed=failed)


def test_model_without_requests_is_absent(book: TrafficBook) -> None:
    assert book.snapshot() == {}
    assert book.in_flight("m") == 0


def test_request_is_counted_through_its_life(book: TrafficBook, clock: HandClock) -> None:
    book.on_arrival("m")
    book.on_waiting("m", +1)
    assert book.snapshot()["m"].pending == 1
    clock.now += 5
    book.on_waiting("m", -1)
    book.on_started("m")
    assert (book.in_flight("m"), book.snapshot()["m"].in_flight) == (1, 1)
    clock.now += 2
    book.on_finished("m", latency_s=2.0, failed=False)
    traffic = book.snapshot()["m"]
    assert (traffic.pending, traffic.in_flight, traffic.completed, traffic.failed) == (0, 0, 1, 0)
    assert traffic.first_request_at == clock.time() - 7
    assert traffic.last_request_at == clock.time()
    assert traffic.latency_p50_s == traffic.latency_p99_s == 2.0


def test_failures_count_apart_and_do_not_pass_for_quick_answers(book: TrafficBook) -> None:
    finish(book, 3.0)
    for _ in range(10):
        finish(book, 0.001, failed=True)
    traffic = book.snapshot()["m"]
    assert (traffic.completed, traffic.failed) == (1, 10)
    assert traffic.latency_p50_s == 3.0


def test_percentiles_are_of_the_latest_requests(book: TrafficBook) -> None:
    for _ in range(LATENCIES_KEPT):
        finish(book, 100.0)
    for latency in range(1, LATENCIES_KEPT + 1):
        finish(book, float(latency))
    traffic = book.snapshot()["m"]
    assert traffic.latency_p50_s == math.ceil(0.50 * LATENCIES_KEPT)
    assert traffic.latency_p99_s == math.ceil(0.99 * LATENCIES_KEPT)


def test_rate_is_over_the_last_minute_and_falls_to_zero(
    book: TrafficBook, clock: HandClock
) -> None:
    for _ in range(120):
        book.on_arrival("m")
        clock.now += 0.5
    # Slots are a second wide, so the first second may just have left.
    assert book.snapshot()["m"].qps == pytest.approx(2.0, rel=0.02)
    clock.now += 30
    assert book.snapshot()["m"].qps == pytest.approx(1.0, rel=0.05)
    clock.now += 31
    assert book.snapshot()["m"].qps == 0.0


def test_rate_of_the_last_hour_outlives_the_minute(book: TrafficBook, clock: HandClock) -> None:
    for _ in range(36):
        book.on_arrival("m")
    clock.now += 600
    traffic = book.snapshot()["m"]
    assert (traffic.qps, traffic.qps_last_hour) == (0.0, pytest.approx(0.01))
    clock.now += 3600
    assert book.snapshot()["m"].qps_last_hour == 0.0


def test_waiting_requests_are_demand(book: TrafficBook) -> None:
    book.on_arrival("m")
    book.on_waiting("m", +1)
    assert book.snapshot()["m"].qps > 0


def test_decayed_rates_settle_at_the_steady_rate(book: TrafficBook, clock: HandClock) -> None:
    for _ in range(3000):
        book.on_arrival("m")
        clock.now += 0.2
    rates = book.snapshot()["m"].rates
    assert len(rates) == len(HORIZONS_S)
    assert rates[0] == pytest.approx(5.0, rel=0.02)
    # After 600 s a horizon of τ has seen the share 1 - exp(-600/τ).
    for rate, tau in zip(rates, HORIZONS_S, strict=True):
        assert rate == pytest.approx(5.0 * (1 - math.exp(-600 / tau)), rel=0.02)


def test_decayed_rates_halve_in_their_half_life(book: TrafficBook, clock: HandClock) -> None:
    book.on_arrival("m")
    before = book.snapshot()["m"].rates
    clock.now += HORIZONS_S[0] * math.log(2)
    after = book.snapshot()["m"].rates
    assert after[0] == pytest.approx(before[0] / 2)
    assert after[3] == pytest.approx(before[3], rel=0.01)


def test_intervals_fall_into_the_bucket_of_their_upper_bound(
    book: TrafficBook, clock: HandClock
) -> None:
    book.on_arrival("m")
    for interval in (1, 1.5, 60, 1_000_000):
        clock.now += interval
        book.on_arrival("m")
    intervals = book.snapshot()["m"].intervals
    assert len(intervals) == len(INTERVAL_BOUNDS_S) + 1
    assert intervals[0] == 1
    assert intervals[INTERVAL_BOUNDS_S.index(2)] == 1
    assert intervals[INTERVAL_BOUNDS_S.index(60)] == 1
    assert intervals[-1] == 1
    assert sum(intervals) == 4


def test_wall_clock_that_was_set_back_counts_as_no_time(clock: HandClock) -> None:
    class Skewed(HandClock):
        skew = 0.0

        def time(self) -> float:
            return super().time() + self.skew

    skewed = Skewed()
    book = TrafficBook(clock=skewed)
    book.on_arrival("m")
    skewed.skew = -3600.0
    book.on_arrival("m")
    assert book.snapshot()["m"].intervals[0] == 1


def test_restored_history_goes_on(book: TrafficBook, clock: HandClock) -> None:
    for _ in range(720):
        book.on_arrival("m")
        finish(book)
        clock.now += 5
    past = book.snapshot()
    clock.now = 20_000.0
    after = TrafficBook(clock=clock)
    after.restore(past)
    old, new = past["m"], after.snapshot()["m"]
    assert (new.completed, new.failed) == (old.completed, old.failed)
    assert (new.first_request_at, new.last_request_at) == (
        old.first_request_at,
        old.last_request_at,
    )
    assert new.intervals == old.intervals
    assert new.habit == old.habit != Habit()
    assert new.rates == pytest.approx(old.rates)
    assert new.qps_last_hour == pytest.approx(old.qps_last_hour)
    clock.now += 1800
    assert after.snapshot()["m"].qps_last_hour == pytest.approx(old.qps_last_hour / 2, rel=0.05)


def test_restoring_adds_to_what_came_meanwhile_and_drops_what_was_under_way(
    book: TrafficBook,
) -> None:
    finish(book)
    book.restore({"m": Traffic(completed=5, in_flight=3, pending=2), "n": Traffic(failed=1)})
    shown = book.snapshot()
    assert (shown["m"].completed, shown["m"].in_flight, shown["m"].pending) == (6, 0, 0)
    assert shown["n"].failed == 1


def test_history_of_other_bounds_or_horizons_is_left_out(book: TrafficBook) -> None:
    book.restore({"m": Traffic(completed=1, rates=(1.0,), intervals=(1, 2))})
    traffic = book.snapshot()["m"]
    assert traffic.completed == 1
    assert sum(traffic.rates) == 0
    assert sum(traffic.intervals) == 0


def test_snapshots_from_another_thread_are_whole() -> None:
    book = TrafficBook(clock=HandClock())
    done = threading.Event()

    def look() -> int:
        looks = 0
        while not done.is_set():
            for traffic in book.snapshot().values():
                ended = traffic.completed + traffic.in_flight
                assert sum(traffic.intervals) in (ended, ended - 1)
                looks += 1
        return looks

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for number in range(3000):
            model = f"m{number // 2}"
            book.on_arrival(model)
            finish(book, model=model)
        done.set()
        assert looking.result() > 0
    assert sum(t.completed for t in book.snapshot().values()) == 3000


@given(st.lists(st.floats(0, 500), max_size=60))
def test_rate_equals_a_count_over_the_last_minute(gaps: list[float]) -> None:
    clock = HandClock()
    book = TrafficBook(clock=clock)
    at: list[float] = []
    for gap in gaps:
        clock.now += gap
        book.on_arrival("m")
        at.append(clock.now)
    if at:
        newest = int(clock.now)
        within = sum(newest - int(moment) < 60 for moment in at)
        assert book.snapshot()["m"].qps == pytest.approx(within / 60)


# --- traffic past the gateway ----------------------------------------------------------------


def look(book: TrafficBook, clock: HandClock, stats: EngineStats, *, seconds: float = 10.0) -> None:
    clock.now += seconds
    book.on_engine_stats("m", loaded_at=1.0, stats=stats)


def test_direct_requests_are_traffic_like_any_other(book: TrafficBook, clock: HandClock) -> None:
    look(book, clock, EngineStats(completed=5))
    assert book.snapshot()["m"].last_request_at is None, (
        "what came before the first look is unknown"
    )
    look(book, clock, EngineStats(completed=63, failed=2, latency_sum_s=29.0))
    seen = book.snapshot()["m"]
    assert (seen.direct, seen.completed, seen.failed) == (60, 58, 2)
    assert seen.qps == pytest.approx(1.0)
    assert seen.qps_last_hour == pytest.approx(60 / 3600)
    assert seen.rates[0] == pytest.approx(60 / HORIZONS_S[0])
    assert seen.latency_p50_s == pytest.approx(0.5)
    assert seen.first_request_at == pytest.approx(clock.time() - 10, abs=0.2)
    assert seen.last_request_at == clock.time()
    assert sum(seen.intervals) == 59


def test_direct_requests_are_a_habit_too(book: TrafficBook, clock: HandClock) -> None:
    look(book, clock, EngineStats())
    for quarter in range(1, 5):
        look(book, clock, EngineStats(completed=40 * quarter), seconds=SLOT_S)
    asked = [slot for slot, days in enumerate(book.snapshot()["m"].habit.slots) if days]
    assert len(asked) >= 4


def test_direct_requests_count_beside_the_gateways_and_not_twice(
    book: TrafficBook, clock: HandClock
) -> None:
    look(book, clock, EngineStats())
    for _ in range(3):
        book.on_arrival("m")
        finish(book)
    look(book, clock, EngineStats(completed=5))
    seen = book.snapshot()["m"]
    assert (seen.direct, seen.completed) == (2, 5)
    assert seen.qps == pytest.approx(5 / 60)


def test_a_direct_request_under_way_is_in_flight_until_the_engine_is_gone(
    book: TrafficBook, clock: HandClock
) -> None:
    look(book, clock, EngineStats())
    look(book, clock, EngineStats(running=1))
    assert book.snapshot()["m"].in_flight == 1
    assert book.in_flight("m") == 0, "not the gateway's to drain"
    book.on_engine_gone("m")
    assert book.snapshot()["m"].in_flight == 0


def test_an_engine_that_says_when_it_last_worked_is_believed(
    book: TrafficBook, clock: HandClock
) -> None:
    look(book, clock, EngineStats())
    at = clock.time() + 3
    look(book, clock, EngineStats(completed=1, last_inference_at=at))
    assert book.snapshot()["m"].last_request_at == at
