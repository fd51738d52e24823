"""What the judge says of tables and engines that contradict each other."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.machines.judge import Engine, Judge, Tables


def tables(**changes: Any) -> Tables:
    """``m`` is ready on ``one``, which plans."""
    given: dict[str, Any] = {
        "models": {"m": {"state": "ready", "reason": ""}},
        "deployments": {"m": {"model": "m", "devices": ["one/cpu"]}},
        "bookings": ({"model": "m", "device": "one/cpu", "bytes": 2**20, "releasing": False},),
        "strays": frozenset(),
        "nodes": {"one": 1.0, "two": 1.0},
        "planner": ("one", 3),
        "questions": 0,
        "open_decisions": 0,
    }
    return Tables(**{**given, **changes})


def booking(model: str, device: str, size: int) -> dict[str, Any]:
    return {"model": model, "device": device, "bytes": size, "releasing": False}


def test_tables_and_engines_that_agree_are_right() -> None:
    judge, running = Judge(), Counter([("one", "m")])

    assert list(judge.at_once(tables())) == []
    assert list(judge.lasting(tables(), running)) == []
    assert list(judge.settled(tables(), running, ready=["m"])) == []


def test_a_device_has_no_more_booked_than_it_has() -> None:
    full = tables(bookings=(booking("m", "one/cpu", 2**31),))

    assert any("are booked on one/cpu" in sentence for sentence in Judge().at_once(full))


def test_what_is_deployed_is_booked_there() -> None:
    moved = tables(bookings=(booking("m", "two/cpu", 1),))

    assert any("booked on ['two/cpu']" in sentence for sentence in Judge().at_once(moved))


def test_a_model_that_holds_memory_has_a_deployment() -> None:
    bare = tables(deployments={}, bookings=())

    assert any("has no deployment" in sentence for sentence in Judge().at_once(bare))


@pytest.mark.parametrize("planner", [("two", 2), ("two", 3)])
def test_an_epoch_has_one_planner_and_none_comes_back(planner: tuple[str, int]) -> None:
    judge = Judge()
    assert list(judge.at_once(tables())) == []

    assert any("planne" in sentence for sentence in judge.at_once(tables(planner=planner)))


@pytest.mark.parametrize("running", [[("one", "m")] * 2, [("one", "m"), ("two", "m")]])
def test_a_model_runs_once_and_where_the_store_has_it(running: list[Engine]) -> None:
    assert list(Judge().lasting(tables(), Counter(running))) != []


def test_a_stray_may_run_until_it_is_cleared() -> None:
    strays, running = (
        tables(strays=frozenset({("two", "m")})),
        Counter([("one", "m"), ("two", "m")]),
    )

    assert list(Judge().lasting(strays, running)) == []
    assert any("stray" in s for s in Judge().settled(strays, running, ready=["m"]))


def test_what_is_deployed_runs_at_rest() -> None:
    assert any("nothing runs it" in s for s in Judge().settled(tables(), Counter(), ready=["m"]))


def test_a_question_that_nobody_answers_is_no_rest() -> None:
    asked, running = tables(questions=1), Counter([("one", "m")])

    assert any("not answered" in s for s in Judge().settled(asked, running, ready=["m"]))
