"""Tokens, queue time, concurrency and GPU utilization of a model."""

from __future__ import annotations

import pytest

from modelium.models import Traffic
from modelium.ports import EngineStats
from modelium.traffic.book import TrafficBook
from tests.modelium.traffic.test_book import HandClock

DAY_S = 86_400.0


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def book(clock: HandClock) -> TrafficBook:
    return TrafficBook(clock=clock)


def look(
    book: TrafficBook, clock: HandClock, stats: EngineStats, *, loaded_at: float = 1.0
) -> Traffic:
    """Let the control loop look at the engine, 10 s later."""
    clock.now += 10
    book.on_engine_stats("m", loaded_at=loaded_at, stats=stats)
    return book.snapshot()["m"]


def tokens(prompt: int, generated: int) -> EngineStats:
    return EngineStats(prompt_tokens=prompt, generated_tokens=generated)


def counted(seen: Traffic) -> tuple[int, int]:
    return seen.prompt_tokens, seen.generated_tokens


def test_tokens_are_those_that_the_engine_counts(book: TrafficBook, clock: HandClock) -> None:
    assert counted(look(book, clock, tokens(100, 20))) == (0, 0), "before the first look"
    seen = look(book, clock, tokens(160, 50))
    assert counted(seen) == (60, 30)
    assert (seen.prompt_tokens_per_s, seen.generated_tokens_per_s) == (1.0, 0.5)
    clock.now += 60
    later = book.snapshot()["m"]
    assert counted(later) == (60, 30)
    assert (later.prompt_tokens_per_s, later.generated_tokens_per_s) == (0.0, 0.0)


def test_the_gateways_count_stands_in_where_the_engine_counts_none(
    book: TrafficBook, clock: HandClock
) -> None:
    look(book, clock, EngineStats(completed=1))
    book.on_answered("m", prompt_tokens=6, generated_tokens=4)
    book.on_answered("m", prompt_tokens=None, generated_tokens=3)
    assert counted(look(book, clock, EngineStats(completed=3))) == (6, 7)


def test_no_token_counts_twice(book: TrafficBook, clock: HandClock) -> None:
    look(book, clock, EngineStats())
    book.on_answered("m", prompt_tokens=6, generated_tokens=4)
    assert counted(look(book, clock, tokens(6, 4))) == (6, 4)
    book.on_answered("m", prompt_tokens=10, generated_tokens=10)
    assert counted(look(book, clock, tokens(16, 14))) == (16, 14)


@pytest.mark.parametrize("again", [tokens(0, 0), tokens(900, 700), tokens(101, 3)])
def test_a_new_load_begins_the_engines_count_anew(
    book: TrafficBook, clock: HandClock, again: EngineStats
) -> None:
    look(book, clock, tokens(100, 20))
    look(book, clock, tokens(110, 25))
    seen = look(book, clock, again, loaded_at=2.0)
    assert counted(seen) == (10, 5)


def test_counters_that_fall_begin_anew(book: TrafficBook, clock: HandClock) -> None:
    look(book, clock, tokens(100, 20))
    assert counted(look(book, clock, tokens(99, 20))) == (0, 0)
    assert counted(look(book, clock, tokens(100, 19))) == (0, 0)
    assert counted(look(book, clock, tokens(101, 20))) == (1, 1)


def test_the_longest_request_is_known_and_how_many_told(book: TrafficBook) -> None:
    book.on_answered("m", prompt_tokens=100, generated_tokens=20)
    book.on_answered("m", prompt_tokens=90, generated_tokens=40)
    book.on_answered("m", prompt_tokens=1, generated_tokens=None)
    book.on_answered("m", prompt_tokens=None, generated_tokens=5000)
    seen = book.snapshot()["m"]
    assert (seen.longest_tokens, seen.sized) == (130, 3)


def test_an_estimated_length_counts_as_one_that_was_told(book: TrafficBook) -> None:
    book.on_sized("m", 500)
    book.on_sized("m", 499)
    book.on_answered("m", prompt_tokens=400, generated_tokens=99)
    seen = book.snapshot()["m"]
    assert (seen.longest_tokens, seen.sized) == (500, 3)


def refused(book: TrafficBook, clock: HandClock, *at: float, context: int = 8192) -> int:
    """Have a context refuse a request at each of these seconds; return which one is too short."""
    began = clock.now
    for second in at:
        clock.now = began + second
        book.on_too_long("m", context)
    return book.snapshot()["m"].short_context


def test_a_context_is_too_short_once_it_has_refused_three_requests_over_twenty_minutes(
    book: TrafficBook, clock: HandClock
) -> None:
    assert refused(book, clock, 0, 600) == 0
    assert refused(book, clock, 599) == 0, "less than ten minutes after the one before"
    assert refused(book, clock, 1) == 8192
    assert refused(book, clock, 0, 1, 2, 600, 1201) == 8192


def test_many_refusals_at_once_are_no_evidence(book: TrafficBook, clock: HandClock) -> None:
    assert refused(book, clock, *range(1200)) == 0


def test_each_context_is_judged_by_itself_and_the_longest_counts(
    book: TrafficBook, clock: HandClock
) -> None:
    assert refused(book, clock, 0, 600) == 0
    assert refused(book, clock, 600, 1200, context=16_384) == 0
    assert refused(book, clock, 600, context=16_384) == 16_384
    assert refused(book, clock, 600, 1200, 1800) == 16_384


def test_queue_time_is_the_mean_of_what_ended(book: TrafficBook, clock: HandClock) -> None:
    assert look(book, clock, EngineStats()).queue_s is None
    seen = look(book, clock, EngineStats(completed=3, failed=1, queue_sum_s=2.0))
    assert seen.queue_s == 0.5
    seen = look(book, clock, EngineStats(completed=8, failed=1, queue_sum_s=2.9))
    assert seen.queue_s == pytest.approx(2.9 / 9, rel=1e-4)
    still = look(book, clock, EngineStats(completed=8, failed=1, queue_sum_s=2.9))
    assert still.queue_s == pytest.approx(2.9 / 9, rel=1e-3)


def test_queue_time_is_that_of_the_last_256_requests(book: TrafficBook, clock: HandClock) -> None:
    look(book, clock, EngineStats(completed=100, queue_sum_s=100.0))
    seen = look(book, clock, EngineStats(completed=355, queue_sum_s=610.0))
    assert seen.queue_s == pytest.approx(610 / 355, rel=1e-4)
    seen = look(book, clock, EngineStats(completed=356, queue_sum_s=611.0))
    assert seen.queue_s == pytest.approx(511 / 256, rel=1e-4)


def test_queue_time_counts_half_a_day_later(book: TrafficBook, clock: HandClock) -> None:
    look(book, clock, EngineStats(completed=4, queue_sum_s=2.0))
    clock.now += DAY_S
    assert book.snapshot()["m"].queue_s == 0.25
    clock.now -= 10
    assert look(book, clock, EngineStats(completed=8, queue_sum_s=10.0)).queue_s == (1 + 8) / 8
    clock.now += 2 * DAY_S
    assert book.snapshot()["m"].queue_s == (0.25 + 2) / 8


def test_queue_time_outlives_the_engine_and_a_new_one_adds_to_it(
    book: TrafficBook, clock: HandClock
) -> None:
    look(book, clock, EngineStats(completed=4, queue_sum_s=2.0, waiting=3))
    book.on_engine_gone("m")
    gone = book.snapshot()["m"]
    assert (gone.queue_s, gone.queued) == (0.5, 0)
    again = look(book, clock, EngineStats(completed=5, queue_sum_s=7.0), loaded_at=2.0)
    assert again.queue_s == pytest.approx(1.0, rel=1e-4)


def test_an_engine_that_measures_no_queue_time_has_none(
    book: TrafficBook, clock: HandClock
) -> None:
    seen = look(book, clock, EngineStats(completed=4, waiting=2))
    assert (seen.queue_s, seen.queued) == (None, 2)


def test_concurrency_is_the_most_at_once_and_halves_in_a_day(
    book: TrafficBook, clock: HandClock
) -> None:
    book.on_waiting("m", +1)
    book.on_started("m")
    book.on_started("m")
    book.on_finished("m", latency_s=1.0, failed=False)
    book.on_waiting("m", -1)
    assert book.snapshot()["m"].concurrency == 3.0
    clock.now += DAY_S
    assert book.snapshot()["m"].concurrency == 1.5
    book.on_started("m")
    assert book.snapshot()["m"].concurrency == 2.0, "what is now in flight is more"


def test_direct_requests_are_concurrent_too(book: TrafficBook, clock: HandClock) -> None:
    look(book, clock, EngineStats())
    assert look(book, clock, EngineStats(running=4, waiting=2)).concurrency == 6.0


def test_throughput_counts_what_ended_in_the_last_minute(
    book: TrafficBook, clock: HandClock
) -> None:
    look(book, clock, EngineStats())
    for failed in (False, True, False):
        book.on_started("m")
        book.on_finished("m", latency_s=1.0, failed=failed)
    assert look(book, clock, EngineStats(completed=6)).ended_per_s == 6 / 60
    clock.now += 60
    assert book.snapshot()["m"].ended_per_s == 0.0


def test_gpu_utilization_is_noted_of_models_that_are_known_or_work(
    book: TrafficBook, clock: HandClock
) -> None:
    book.on_utilization({"m": 0.25, "cpu": None})
    assert {n: t.gpu_utilization for n, t in book.snapshot().items()} == {"m": 0.25}
    book.on_utilization({"m": None})
    assert book.snapshot()["m"].gpu_utilization is None
    book.on_utilization({"m": 0.5})
    book.on_engine_gone("m")
    assert book.snapshot()["m"].gpu_utilization is None


def test_a_restart_takes_up_what_was_stored(book: TrafficBook, clock: HandClock) -> None:
    past = Traffic(
        queue_s=0.25,
        concurrency=8.0,
        prompt_tokens=5,
        generated_tokens=6,
        longest_tokens=70,
        sized=9,
        short_context=8192,
        latency_p50_s=0.5,
        latency_p99_s=2.0,
    )
    book.on_answered("m", prompt_tokens=1, generated_tokens=1)
    book.restore({"m": past})
    seen = book.snapshot()["m"]
    assert (seen.queue_s, seen.concurrency, seen.longest_tokens, seen.sized) == (0.25, 8.0, 70, 10)
    assert counted(seen) == (6, 7)
    assert seen.short_context == 8192
    assert (seen.latency_p50_s, seen.latency_p99_s) == (0.5, 2.0)
    clock.now += DAY_S
    assert book.snapshot()["m"].queue_s == 0.125
    book.on_started("m")
    book.on_finished("m", latency_s=3.0, failed=False)
    assert look(book, clock, EngineStats(completed=1, queue_sum_s=1.0)).queue_s == 1.0
    assert book.snapshot()["m"].latency_p50_s == 3.0


def test_a_restart_does_not_put_stored_latencies_over_fresh_ones(book: TrafficBook) -> None:
    book.on_started("m")
    book.on_finished("m", latency_s=3.0, failed=False)
    book.restore({"m": Traffic(latency_p50_s=0.5, concurrency=0.5)})
    seen = book.snapshot()["m"]
    assert (seen.latency_p50_s, seen.concurrency) == (3.0, 1.0)
