from __future__ import annotations

import pytest

from agents.replay.planner_under_replay import (
    replay_policies,
)
from agents.replay.traces import ReplayModel, Request, Trace
from modelium.models import (
    GIB,
)
from tests.agents.replay.small_traces import THREE, run, trace


def test_a_request_waits_for_the_load_and_later_ones_do_not() -> None:
    what = trace([(0.0, "a"), (4.0, "a"), (100.0, "a")], a=(10.0, 10.0))
    for policy in ("lru", "rules"):
        result = run(what, policy, cache_only=False)
        assert (result.cold_starts, result.wait_p50_s, result.wait_p99_s) == (1, 6.0, 10.0)


def test_loads_are_sequential_on_one_device_and_parallel_on_two() -> None:
    what = trace([(0.0, "a"), (0.0, "b")], a=(10.0, 10.0), b=(10.0, 10.0))
    assert run(what, "lru", (100,), cache_only=False).wait_p99_s == 20
    # Best fit would put both on the first device; here only one fits on each.
    assert run(what, "lru", (15, 15), cache_only=False).wait_p99_s == 10


@pytest.mark.parametrize("policy", list(replay_policies()))
def test_every_policy_serves_every_request_without_overbooking(policy: str) -> None:
    requests = [(i * 0.7, "abcdefgh"[(i * i + i // 7) % 8]) for i in range(400)]
    models = {n: (10.0 + 7 * i, 2.0 + i) for i, n in enumerate("abcdefgh")}
    result = run(trace(requests, **models), policy, (64, 64), cache_only=False)
    assert result.slo_attainment is not None
    assert result.requests == 400
    assert result.unplaceable == 0
    assert result.cold_starts - result.evictions <= 8
    assert 0 < result.occupancy <= 1


@pytest.mark.parametrize("policy", ["lru", "rules"])
def test_a_busy_model_is_not_evicted_for_another(policy: str) -> None:
    what = Trace(
        models=(
            ReplayModel(name="a", bytes=60 * GIB, load_s=1.0),
            ReplayModel(name="b", bytes=60 * GIB, load_s=1.0),
        ),
        requests=(Request(0.0, 0, 50.0), Request(10.0, 1, 1.0)),
    )
    result = run(what, policy, cache_only=False)
    # b waits until a's request has ended at 51 s, then for its own load.
    assert result.wait_p99_s == pytest.approx(42.0)


@pytest.mark.parametrize("policy", ["lru", "rules"])
def test_a_model_larger_than_a_device_is_split(policy: str) -> None:
    what = trace([(0.0, "a"), (5.0, "b"), (90.0, "a")], a=(100.0, 10.0), b=(30.0, 5.0))
    result = run(what, policy, (64, 64), cache_only=False)
    assert (result.cold_starts, result.unplaceable) == (3, 0)


@pytest.mark.parametrize("policy", ["lru", "rules"])
@pytest.mark.parametrize("cache_only", [True, False])
def test_a_model_that_fits_nowhere_is_counted_and_does_not_block_others(
    policy: str, cache_only: bool
) -> None:
    what = trace([(0.0, "huge"), (1.0, "a")], huge=(900.0, 10.0), a=(10.0, 1.0))
    result = run(what, policy, cache_only=cache_only)
    assert (result.unplaceable, result.cold_starts) == (1, 1)


def test_two_runs_agree() -> None:
    what = trace([(i * 11.0, "abcabbca"[i % 8]) for i in range(200)], **THREE)
    first, second = (run(what, "rules", cache_only=False) for _ in range(2))
    for field in ("cold_starts", "load_seconds", "evictions", "wait_p99_s", "occupancy"):
        assert getattr(first, field) == getattr(second, field)
