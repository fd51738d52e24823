from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Keep,
    Queue,
    Reject,
    Traffic,
    Trigger,
)
from tests.agents.rules.asking import ask, crowded, shape
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"runtimes": ()}, "no enabled runtime"),
        ({"weight_bytes": 500 * GIB}, "too large"),
        ({"needs_remote_code": True}, "modelium approve"),
    ],
)
def test_a_model_that_cannot_run_is_rejected_with_the_reason(
    given: dict[str, Any], says: str
) -> None:
    world = fleet(model("a", profile=profile(10, **given)))
    (answer,) = ask(world, Trigger.INGEST, "a").actions
    assert isinstance(answer, Reject)
    assert says in answer.reason


def test_a_loaded_model_is_kept() -> None:
    world = fleet(loaded("a", "n/g0"))
    for trigger in (Trigger.INGEST, Trigger.DEMAND, Trigger.OPERATOR):
        assert shape(ask(world, trigger, "a")) == [("keep", "a")]


def test_an_evicted_model_is_loaded_again_by_a_request_and_not_by_its_folder() -> None:
    world = fleet(model("a", state=ModelState.UNLOADED, evicted_at=NOW - 5))
    assert shape(ask(world, Trigger.INGEST, "a")) == [("keep", "a")]
    assert shape(ask(world, Trigger.DEMAND, "a")) == [("load", "a")]


def test_back_off_applies_to_requests_and_not_to_the_operator() -> None:
    world = fleet(model("a", state=ModelState.FAILED, failures=3, retry_at=NOW + 60))
    assert shape(ask(world, Trigger.DEMAND, "a")) == [("keep", "a")]
    assert shape(ask(world, Trigger.OPERATOR, "a")) == [("load", "a")]


def test_requests_up_to_the_threshold_load_nothing() -> None:
    by = policy(pending_requests_threshold=2)
    few = fleet(model("a", traffic=Traffic(pending=2)))
    many = fleet(model("a", traffic=Traffic(pending=3)))
    assert shape(ask(few, Trigger.DEMAND, "a", by)) == [("keep", "a")]
    assert shape(ask(many, Trigger.DEMAND, "a", by)) == [("load", "a")]


@pytest.mark.parametrize(
    ("given", "by", "says"),
    [
        ({"pinned": True}, {}, "2 pinned"),
        ({}, {"always_loaded": frozenset({"rare", "hot"})}, "2 pinned"),
        ({}, {"enable_model_swapping": False}, "2 kept because enable_model_swapping is off"),
        ({}, {"min_residency_s": 90_000}, "2 ready for less than 90000 s (min_residency_seconds)"),
    ],
)
def test_a_model_without_room_is_queued_with_the_reason(
    given: dict[str, Any], by: dict[str, Any], says: str
) -> None:
    (answer,) = ask(
        fleet(model("a", 40), *crowded(**given)), Trigger.DEMAND, "a", policy(**by)
    ).actions
    assert isinstance(answer, Queue)
    assert says in answer.reason


def test_a_model_that_is_not_analyzed_is_kept() -> None:
    world = fleet(model("a", state=ModelState.INGESTED, profile=None))
    (answer,) = ask(world, Trigger.DEMAND, "a").actions
    assert isinstance(answer, Keep)
