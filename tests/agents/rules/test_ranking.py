from __future__ import annotations

from typing import Any

import pytest

from agents.rules.ranking import (
    Rank,
    is_starving,
    may_retry,
    priority_class,
    rank,
    waiting_class,
    waiting_s,
)
from modelium.lifecycle import ModelState
from modelium.models import Model, Priority, Traffic
from tests.fakes.fleets import NOW, model, policy


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, Priority.LOW),
        ({"team": "prod"}, Priority.MEDIUM),
        ({"team": "prod", "traffic": Traffic(first_request_at=1.0)}, Priority.HIGH),
        ({"team": "lab", "traffic": Traffic(first_request_at=1.0)}, Priority.LOW),
        ({"team": None, "traffic": Traffic(first_request_at=1.0)}, Priority.LOW),
        ({"team": "prod", "priority": Priority.HIGH}, Priority.HIGH),
        ({"priority": Priority.HIGH}, Priority.HIGH),
        ({"priority": Priority.HIGH, "priority_ceiling": Priority.LOW}, Priority.LOW),
    ],
)
def test_the_class_comes_from_the_operator_and_the_team(
    given_: dict[str, object], expected: Priority
) -> None:
    by = policy(high_priority_teams=frozenset({"prod"}))
    assert priority_class(model("a", **given_), by) is expected


def test_waiting_raises_a_model_above_higher_classes() -> None:
    def key(name: str, queued_s: float, priority: Priority) -> tuple[float, ...]:
        one = model(name, state=ModelState.QUEUED, queued_at=NOW - queued_s, priority=priority)
        return rank(one, policy(), now=NOW, value=0.0)[:2]

    assert key("new", 5, Priority.HIGH) < key("old", 500, Priority.LOW)
    assert key("old", 2000, Priority.LOW) < key("new", 5, Priority.HIGH)


def test_waiting_requests_raise_the_class_up_to_the_ceiling_while_they_wait() -> None:
    by = policy()
    asked = Traffic(pending=2, pending_priority=Priority.HIGH)
    plain, wanted = model("a"), model("b", traffic=asked)
    assert waiting_class(plain, by) is Priority.LOW
    assert waiting_class(wanted, by) is Priority.HIGH
    assert priority_class(wanted, by) is Priority.LOW
    capped = model("c", traffic=asked, priority_ceiling=Priority.MEDIUM)
    assert waiting_class(capped, by) is Priority.MEDIUM
    pending = model("d", traffic=Traffic(pending=2))
    assert rank(wanted, by, now=NOW, value=1.0) < rank(pending, by, now=NOW, value=1.0)


def test_a_model_waits_since_it_was_queued_else_since_its_state_began() -> None:
    def waited(**given: object) -> float:
        return waiting_s(model("a", state_since=NOW - 50, **given), now=NOW)

    assert waited() == 50
    assert waited(queued_at=NOW - 700) == 700
    assert waited(queued_at=0.0) == NOW
    assert waited(queued_at=NOW + 5) == 0


def queued(waited_s: float, **given: Any) -> Model:
    return model("a", state=ModelState.QUEUED, queued_at=NOW - waited_s, **given)


def since(waited_s: float, **given: Any) -> Model:
    """Return a model that nobody has queued."""
    return model("a", state=ModelState.UNLOADED, state_since=NOW - waited_s, **given)


def test_half_an_hour_is_starving() -> None:
    assert is_starving(queued(1800), now=NOW)
    assert not is_starving(queued(1799), now=NOW)
    assert not is_starving(since(1800), now=NOW), "unloaded is not waiting"


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, True),
        ({"profile": None}, False),
        ({"retry_at": NOW}, True),
        ({"retry_at": NOW + 1}, False),
        ({"retry_at": NOW - 1, "failures": 1, "state": ModelState.FAILED}, True),
        ({"retry_at": None, "failures": 1, "state": ModelState.FAILED}, False),  # quarantined
    ],
)
def test_a_model_is_tried_once_it_is_analyzed_and_its_pause_is_over(
    given_: dict[str, object], expected: bool
) -> None:
    assert may_retry(model("a", **given_), now=NOW) is expected


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        (queued(0), (1, 2, -3.5, 0.0, "a")),
        (queued(599), (1, 2, -3.5, -599.0, "a")),
        (queued(600), (1, 1, -3.5, -600.0, "a")),
        (queued(1250, priority=Priority.MEDIUM), (1, -1, -3.5, -1250.0, "a")),
        (queued(1799, priority=Priority.HIGH), (1, -2, -3.5, -1799.0, "a")),
        (queued(1800, priority=Priority.HIGH), (0, -4, 0.0, -1800.0, "a")),
        (queued(9000), (0, -4, 0.0, -9000.0, "a")),
        (queued(9000, traffic=Traffic(pending=1)), (0, -4, 0.0, -9000.0, "a")),
        (since(9000, traffic=Traffic(pending=1)), (0, -3, -3.5, -9000.0, "a")),
        (since(1800, priority=Priority.HIGH), (1, -3, -3.5, -1800.0, "a")),
        (queued(5, traffic=Traffic(pending=1)), (0, 2, -3.5, -5.0, "a")),
    ],
)
def test_urgent_models_go_first_then_class_value_waiting_time_and_name(
    waiting: Model, expected: Rank
) -> None:
    assert rank(waiting, policy(), now=NOW, value=3.5) == expected
