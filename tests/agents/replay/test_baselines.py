from __future__ import annotations

import pytest

from agents.replay.planner_under_replay import (
    replay_policies,
)
from tests.agents.replay.small_traces import THREE, cold, run, trace


@pytest.mark.parametrize(
    ("policy", "requests", "expected"),
    [
        ("lru", "abcb", 3),  # a left for c
        ("lru", "abac", 3),  # b left for c
        ("lru", "abacb", 4),
        ("lfu", "aaabcbc", 5),  # a, asked for most, stays: b and c take turns
        ("llama-swap", "aabba", 3),  # one at a time
        ("belady", "abcab", 4),  # b goes: a is needed first
        ("ollama", "bacb", 3),  # a goes first by its name, though b is older
    ],
)
def test_baselines_match_hand_counted_cold_starts(
    policy: str, requests: str, expected: int
) -> None:
    assert cold(requests, policy) == expected


def test_ttl_unloads_after_five_idle_minutes() -> None:
    requests = [(0.0, "a"), (299.0, "a"), (600.0, "a")]
    assert run(trace(requests, **THREE), "ttl").cold_starts == 2
    assert run(trace(requests, **THREE), "lru").cold_starts == 1


def test_gdsf_keeps_the_model_with_the_most_load_seconds_per_byte() -> None:
    models = {"dear": (40.0, 100.0), "cheap": (40.0, 1.0), "c": (40.0, 10.0)}
    requests = [(0.0, "dear"), (1.0, "cheap"), (2.0, "c"), (3.0, "dear")]
    assert run(trace(requests, **models), "gdsf").load_seconds == 111
    assert run(trace(requests, **models), "lru").load_seconds == 211


def test_no_policy_beats_the_offline_bound_on_equal_models() -> None:
    requests = "abcacbbacabbcacbabcaabccba" * 8
    least = cold(requests, "belady")
    for policy in replay_policies():
        assert cold(requests, policy) >= least
