from __future__ import annotations

import pytest

from agents.rules.ranking import priority_class, rank, waiting_class
from modelium.lifecycle import ModelState
from modelium.models import Priority, Traffic
from tests.fakes.fleets import NOW, model, policy


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, Priority.LOW),
        ({"team": "prod"}, Priority.MEDIUM),
        ({"team": "prod", "traffic": Traffic(first_request_at=1.0)}, Priority.HIGH),
        ({"team": "lab", "traffic": Traffic(first_request_at=1.0)}, Priority.LOW),
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
