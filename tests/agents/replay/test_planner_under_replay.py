from __future__ import annotations

import math

import pytest

from agents.replay.planner_under_replay import (
    PlannerUnderReplay,
    replay_policies,
    unrestricted_policy,
)
from agents.replay.simulated_fleet import EPOCH
from agents.replay.simulation import replay
from agents.replay.traces import Trace
from modelium.models import (
    GIB,
)
from modelium.policy import Policy
from tests.agents.replay.small_traces import THREE, run, trace

pytestmark = pytest.mark.slow


def test_the_rules_keep_a_model_on_a_timer_that_lru_evicts() -> None:
    requests = sorted(
        [(t * 600.0, "timer") for t in range(100)]
        + [
            (t * 600.0 + 60 + 30 * i, f"once{(t * 5 + i) % 40}")
            for t in range(100)
            for i in range(5)
        ]
    )
    models = {"timer": (40.0, 30.0), **{f"once{i}": (30.0, 30.0) for i in range(40)}}
    what = trace(requests, **models)
    assert run(what, "rules").cold_starts < run(what, "lru").cold_starts


def test_auto_unload_has_its_own_row() -> None:
    what = trace([(0.0, "a"), (5000.0, "a")], **THREE)
    rows = replay(
        what,
        [100 * GIB],
        ["rules", "rules+ttl"],
        cache_only=True,
        known=replay_policies(auto_unload_after_s=3600),
    )
    assert [(r.policy, r.cold_starts) for r in rows] == [("rules", 1), ("rules+ttl", 2)]


def test_prewarming_saves_cold_starts_and_its_loads_are_counted() -> None:
    timer = trace([(i * 600.0, "a") for i in range(20)], a=(40.0, 10.0))
    results = {}
    for name, sweep_s in (("waits", math.inf), ("ahead", 60.0)):
        idle_out = unrestricted_policy(auto_unload_after_s=400.0)

        def build(
            what: Trace, sweep_s: float = sweep_s, policy: Policy = idle_out
        ) -> PlannerUnderReplay:
            return PlannerUnderReplay(what, policy=policy, sweep_s=sweep_s)

        (results[name],) = replay(timer, [50 * GIB], ["r"], cache_only=True, known={"r": build})
    assert results["waits"].cold_starts == 20
    ahead = results["ahead"]
    assert ahead.cold_starts <= 10
    assert ahead.prewarm_load_seconds >= 10.0 * (20 - ahead.cold_starts)
    assert ahead.load_seconds == 10.0 * ahead.cold_starts + ahead.prewarm_load_seconds


def test_a_model_requested_daily_at_one_time_is_prewarmed_from_the_fourth_day() -> None:
    half_past_two = 2.5 * 3600 - EPOCH % 86_400
    daily = trace([(half_past_two + d * 86_400.0, "a") for d in range(1, 8)], a=(40.0, 10.0))

    def build(what: Trace) -> PlannerUnderReplay:
        idle_out = unrestricted_policy(auto_unload_after_s=3600.0)
        return PlannerUnderReplay(what, policy=idle_out, sweep_s=60.0)

    (result,) = replay(daily, [50 * GIB], ["r"], cache_only=True, known={"r": build})
    assert result.cold_starts == 3
    assert result.prewarm_load_seconds == 4 * 10.0


def test_nothing_is_evicted_for_a_prewarm() -> None:
    requests = [(i * 600.0, "a") for i in range(20)] + [(i * 30.0, "b") for i in range(400)]
    what = trace(sorted(requests), a=(40.0, 10.0), b=(40.0, 10.0))
    assert run(what, "rules+prewarm", (50,)).prewarm_load_seconds == 0
