"""A node that the store has not heard of for a while begins nothing."""

from __future__ import annotations

import pytest

from modelium.errors import Unavailable
from modelium.models.nodes import FENCED_S, SILENT_S
from modelium.stages.heartbeat import Heartbeat


def test_a_node_that_is_alone_needs_no_heartbeat() -> None:
    Heartbeat().check(1e9)


def test_a_load_may_begin_until_the_fence_falls() -> None:
    heartbeat = Heartbeat()
    heartbeat.note(100.0)
    heartbeat.check(100.0 + FENCED_S)
    with pytest.raises(Unavailable, match="has not reached the store for 11 s"):
        heartbeat.check(111.0)


def test_the_fence_falls_before_others_may_take_over() -> None:
    assert FENCED_S < SILENT_S


def test_a_heartbeat_lifts_the_fence() -> None:
    heartbeat = Heartbeat()
    heartbeat.note(0.0)
    heartbeat.note(500.0)
    heartbeat.check(505.0)


def test_a_node_judges_the_silence_of_others_only_once_they_had_time_to_speak() -> None:
    heartbeat = Heartbeat()
    assert heartbeat.may_judge(0.0)  # alone
    for began in (0.0, 500.0):  # the second time after an outage of the store
        heartbeat.note(began)
        assert not heartbeat.may_judge(began + SILENT_S)
        heartbeat.note(began + 8.0)
        assert heartbeat.may_judge(began + SILENT_S + 1)
