from __future__ import annotations

from agents.llm.circuit_breaker import FAILURES, LONGEST_PAUSE_S, PAUSE_S, CircuitBreaker
from agents.replay.simulated_fleet import SimulatedClock
from tests.agents.advising import (
    INGEST,
    Build,
    newcomer,
)
from tests.fakes.fleets import fleet
from tests.fakes.llm import Answer


async def test_an_endpoint_that_keeps_failing_is_not_called(house: Build) -> None:
    home = await house(lambda body: Answer(status=503))
    for _ in range(3):
        plan, _ = await home.answer(INGEST, fleet(newcomer()))
        assert plan.fallback.startswith("endpoint-error")
    asked = len(home.endpoint.seen)
    plan, _ = await home.answer(INGEST, fleet(newcomer()))
    assert plan.fallback.startswith("circuit-open")
    assert len(home.endpoint.seen) == asked


def opened(clock: SimulatedClock) -> CircuitBreaker:
    breaker = CircuitBreaker(monotonic=clock.monotonic)
    for _ in range(FAILURES):
        assert breaker.seconds_until_allowed() == 0
        breaker.on_failure()
    return breaker


def test_it_opens_after_failures_in_a_row_and_lets_one_trial_through() -> None:
    clock = SimulatedClock()
    breaker = opened(clock)
    assert breaker.seconds_until_allowed() == PAUSE_S
    clock.now += PAUSE_S
    assert breaker.seconds_until_allowed() == 0
    assert breaker.seconds_until_allowed() == PAUSE_S, "others wait for the trial's outcome"
    breaker.on_success()
    assert breaker.seconds_until_allowed() == 0


def test_the_pause_doubles_with_each_failed_trial_up_to_the_longest() -> None:
    clock = SimulatedClock()
    breaker = opened(clock)
    pauses = []
    for _ in range(6):
        pauses.append(breaker.seconds_until_allowed())
        clock.now += pauses[-1]
        assert breaker.seconds_until_allowed() == 0
        breaker.on_failure()
    assert pauses == [60, 120, 240, 480, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
