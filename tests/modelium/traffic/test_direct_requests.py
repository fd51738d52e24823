"""Requests past the gateway are told from its own by the engine's counters."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelium.ports import EngineStats
from modelium.traffic.direct_requests import LAG_S, DirectRequestCounter, DirectRequests

TICK_S = 10.0


class Scene:
    """One model: a gateway, an engine, and looks every ten seconds."""

    def __init__(self) -> None:
        self.counter = DirectRequestCounter()
        self.now = 1000.0
        self.since = 1.0
        self.started = self.in_flight = 0
        self.stats = EngineStats()

    def gateway(self, requests: int = 1, *, counted: bool = True) -> None:
        self.started += requests
        if counted:
            self.engine(requests)

    def engine(self, requests: int = 0, **more: object) -> None:
        fresh: dict[str, object] = {"completed": self.stats.completed + requests, **more}
        self.stats = EngineStats(**{**fields(self.stats), **fresh})  # type: ignore[arg-type]

    def look(self) -> DirectRequests:
        self.now += TICK_S
        return self.counter.observe(
            loaded_at=self.since,
            started=self.started,
            in_flight=self.in_flight,
            stats=self.stats,
            now=self.now,
        )


def fields(stats: EngineStats) -> dict[str, object]:
    return {name: getattr(stats, name) for name in EngineStats.__dataclass_fields__}


def counts(direct: DirectRequests) -> tuple[int, int]:
    return direct.completed, direct.failed


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.engine(1)  # the driver's own probe
    assert counts(scene.look()) == (0, 0)
    return scene


def test_what_the_gateway_passed_on_is_not_direct(scene: Scene) -> None:
    for _ in range(5):
        scene.gateway(7)
        assert counts(scene.look()) == (0, 0)


def test_what_it_did_not_pass_on_is(scene: Scene) -> None:
    scene.gateway(7)
    scene.engine(3)
    direct = scene.look()
    assert counts(direct) == (3, 0)
    assert direct.window_s == TICK_S
    assert counts(scene.look()) == (0, 0)


def test_failed_ones_are_told(scene: Scene) -> None:
    scene.engine(2, failed=1)
    assert counts(scene.look()) == (2, 1)


def test_an_engine_whose_counters_lag_makes_nothing_direct(scene: Scene) -> None:
    scene.started += 4
    assert counts(scene.look()) == (0, 0)
    scene.engine(4)
    assert counts(scene.look()) == (0, 0)


def test_requests_that_the_engine_never_counts_do_not_hide_direct_ones_for_long(
    scene: Scene,
) -> None:
    scene.gateway(100, counted=False)
    scene.look()
    for _ in range(int(LAG_S // TICK_S) + 1):
        scene.look()
    scene.engine(2)
    assert counts(scene.look()) == (2, 0)


def test_a_long_request_of_the_gateway_keeps_its_credit(scene: Scene) -> None:
    scene.started, scene.in_flight = 1, 1
    for _ in range(10):
        assert counts(scene.look()) == (0, 0)
    scene.in_flight = 0
    scene.engine(1)
    assert counts(scene.look()) == (0, 0)


def test_a_reload_starts_anew(scene: Scene) -> None:
    scene.since = 2.0
    scene.engine(50)
    assert counts(scene.look()) == (0, 0)
    scene.engine(1)
    assert counts(scene.look()) == (1, 0)


def test_counters_that_fell_start_anew(scene: Scene) -> None:
    scene.engine(50)
    scene.look()
    scene.stats = EngineStats(completed=2)
    assert counts(scene.look()) == (0, 0)


def test_a_batch_in_one_http_request_counts_once(scene: Scene) -> None:
    scene.engine(0, http_requests=1)
    scene.look()
    scene.started += 1
    scene.engine(8, http_requests=2)
    assert counts(scene.look()) == (0, 0)


def test_what_runs_at_the_engine_beyond_the_gateways_is_in_flight(scene: Scene) -> None:
    scene.started, scene.in_flight = 1, 1
    scene.engine(running=3, waiting=1)
    assert scene.look().in_flight == 3


def test_an_engine_that_counts_tokens_alone_shows_that_it_was_used() -> None:
    scene = Scene()
    scene.engine(generated_tokens=3)
    scene.look()
    scene.engine(generated_tokens=30, last_inference_at=5.0)
    direct = scene.look()
    assert (counts(direct), direct.last_at) == ((1, 0), 5.0)
    scene.started += 1
    scene.engine(generated_tokens=60)
    assert counts(scene.look()) == (0, 0), "the gateway's own"


def test_latency_is_the_engines_mean(scene: Scene) -> None:
    scene.engine(4, latency_sum_s=2.0)
    assert scene.look().latency_s == 0.5


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), ticks=st.integers(1, 60))
def test_no_request_of_the_gateway_ever_counts_as_direct(seed: int, ticks: int) -> None:
    """Whatever the order: counted at once, within the lag, after hours in flight, or never."""
    dice = random.Random(seed)
    scene = Scene()
    scene.look()
    open_: list[int] = []
    late = 0
    for _ in range(ticks):
        scene.engine(late)  # what ended in the last tick and had not been counted yet
        late = 0
        for _ in range(dice.randrange(6)):
            scene.started += 1
            open_.append(dice.randrange(4))
        still = []
        for left in open_:
            if left:
                still.append(left - 1)
                continue
            match dice.randrange(3):
                case 0:
                    scene.engine(1)
                case 1:
                    late += 1
        open_, scene.in_flight = still, len(still)
        assert counts(scene.look()) == (0, 0)
