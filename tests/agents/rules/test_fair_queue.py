"""Within a class the teams take turns, by what they have had for their weights."""

from __future__ import annotations

from typing import Any

from agents.rules.fair_queue import TERM_S, fair_order
from agents.rules.ranking import rank
from modelium.lifecycle import ModelState
from modelium.models import GIB, Fleet, Model, Traffic, Trigger
from modelium.models.advice import Advice
from modelium.policy import Policy, TeamRules
from tests.agents.rules.asking import ask, shape
from tests.agents.rules.building import builder
from tests.fakes.fleets import NOW, fleet, loaded, model, policy


def waiting(name: str, team: str | None = None, gib: float = 40, **given: Any) -> Model:
    """A queued model that takes half a device of 80 GiB."""
    fields = {"state": ModelState.QUEUED, "queued_at": NOW - 60, "team": team}
    return model(name, gib, **{**fields, **given})


def teams(**weights: float) -> Policy:
    return policy(teams={name: TeamRules(weight=weight) for name, weight in weights.items()})


def order(world: Fleet, by: Policy, *advised: str, values: dict[str, float] | None = None) -> str:
    worth = values or {}
    queued = [m for m in world.models if m.state is ModelState.QUEUED]
    found = fair_order(
        queued,
        world,
        by,
        rank=lambda m: rank(m, by, now=NOW, value=worth.get(m.name, 0.0)),
        advised={name: place for place, name in enumerate(advised)},
    )
    return " ".join(m.name for m in found)


def test_teams_take_turns() -> None:
    world = fleet(*(waiting(name, name[0]) for name in ("a1", "a2", "a3", "b1", "b2")))
    assert order(world, teams(a=1, b=1)) == "a1 b1 a2 b2 a3"


def test_where_no_team_is_declared_there_are_no_turns() -> None:
    world = fleet(*(waiting(name, name[0]) for name in ("a1", "a2", "b1")), used={"a": 1e6})
    assert order(world, policy()) == "a1 a2 b1"
    assert order(world, policy(), values={"b1": 1.0}) == "b1 a1 a2"


def test_a_team_of_twice_the_weight_has_twice_the_turns() -> None:
    world = fleet(*(waiting(f"{t}{i}", t) for t in "ab" for i in range(1, 5)))
    assert order(world, teams(a=1, b=2)) == "a1 b1 b2 a2 b3 b4 a3 a4"


def test_what_a_team_has_used_counts() -> None:
    world = fleet(waiting("a1", "a"), waiting("a2", "a"), waiting("b1", "b"))
    by = teams(a=1, b=1)
    assert order(world.model_copy(update={"used": {"a": 1.0}}), by) == "b1 a1 a2"
    assert order(world.model_copy(update={"used": {"b": TERM_S * 0.5}}), by) == "a1 a2 b1"
    assert order(world.model_copy(update={"used": {"b": TERM_S * 0.5 - 1}}), by) == "a1 b1 a2"


def test_what_a_team_holds_counts_as_what_it_is_about_to_have() -> None:
    held = loaded("a0", "n/g0", gib=40, team="a")
    world = fleet(held, waiting("a1", "a"), waiting("b1", "b"), waiting("b2", "b"))
    assert order(world, teams(a=1, b=1)) == "b1 a1 b2"
    assert order(world, teams(a=9, b=1)) == "b1 a1 b2"


def test_large_models_count_more() -> None:
    world = fleet(
        waiting("a1", "a", 60),
        waiting("a2", "a", 60),
        *(waiting(f"b{i}", "b", 20) for i in (1, 2, 3, 4)),
    )
    assert order(world, teams(a=1, b=1)) == "a1 b1 b2 b3 a2 b4"


def test_models_without_a_team_and_undeclared_teams_have_weight_1() -> None:
    world = fleet(waiting("n1"), waiting("n2"), waiting("x1", "x"), waiting("x2", "x"))
    assert order(world, teams(a=5)) == "n1 x1 n2 x2"


def test_the_class_is_before_the_turn() -> None:
    world = fleet(waiting("a1", "a"), waiting("b1", "b", priority="high"), used={"b": 1e6})
    assert order(world, teams(a=1, b=1)) == "b1 a1"


def test_what_a_team_gets_in_a_better_class_counts() -> None:
    world = fleet(waiting("a0", "a", priority="high"), waiting("a1", "a"), waiting("b1", "b"))
    assert order(world, teams(a=1, b=1)) == "a0 b1 a1"


def test_waiting_requests_are_first_and_take_turns_too() -> None:
    asked = {"traffic": Traffic(pending=1)}
    world = fleet(
        waiting("a1", "a", **asked),
        waiting("a2", "a", **asked),
        waiting("b1", "b", **asked),
        waiting("c1", "c"),
    )
    assert order(world, teams(a=1, b=1, c=1)) == "a1 b1 a2 c1"


def test_no_share_lets_a_model_starve() -> None:
    world = fleet(waiting("a1", "a", queued_at=NOW - 1800), waiting("b1", "b"), used={"a": 1e9})
    assert order(world, teams(a=1, b=1)) == "a1 b1"


def test_starving_models_go_by_their_wait_alone() -> None:
    def starved(name: str, waited_s: float, **given: Any) -> Model:
        return waiting(name, name[0], queued_at=NOW - waited_s, **given)

    world = fleet(
        starved("b1", 9000, priority="high", traffic=Traffic(pending=1)),
        starved("b2", 2000, priority="high"),
        starved("a1", 9001),
        starved("a2", 1800),
        waiting("b3", "b", priority="high", traffic=Traffic(pending=1)),
        used={"a": 1e9},
    )
    expected = "a1 b1 b2 a2 b3"
    assert order(world, teams(a=1, b=9), "a2", "b2", values={"a2": 9.0, "b2": 5.0}) == expected
    assert order(world, policy(), "a2", "b2", values={"a2": 9.0, "b2": 5.0}) == expected


def test_what_a_starving_model_gets_counts_for_its_team() -> None:
    world = fleet(waiting("a1", "a", queued_at=NOW - 1800), waiting("a2", "a"), waiting("b1", "b"))
    assert order(world, teams(a=1, b=1)) == "a1 b1 a2"


def test_advice_orders_the_models_of_a_team() -> None:
    world = fleet(*(waiting(name, name[0]) for name in ("a1", "a2", "b1", "b2")))
    assert order(world, teams(a=1, b=1), "b2", "a2") == "b2 a2 a1 b1"
    assert order(world, policy(), "b2", "a2") == "b2 a2 a1 b1"
    urgent = fleet(
        waiting("a1", traffic=Traffic(pending=1)), waiting("a2", traffic=Traffic(pending=1))
    )
    assert order(urgent, policy(), "a2") == "a1 a2"


def test_a_model_of_unknown_size_does_not_count() -> None:
    world = fleet(waiting("a1", "a", profile=None), waiting("a2", "a"), waiting("b1", "b"))
    assert order(world, teams(a=1, b=1)) == "a1 a2 b1"


def test_without_devices_sizes_do_not_count() -> None:
    world = fleet(*(waiting(name, name[0]) for name in ("a1", "a2", "b1")), devices=())
    assert order(world, teams(a=1, b=1)) == "a1 a2 b1"


def test_sizes_are_told_by_the_largest_device() -> None:
    large, small = fleet(gpus=2).devices
    small = small.model_copy(update={"total_bytes": GIB, "free_bytes": GIB})
    world = fleet(
        *(waiting(name, name[0]) for name in ("a1", "a2", "b1")),
        devices=(small, large),
        used={"b": TERM_S * 0.5 + 1},
    )
    assert order(world, teams(a=1, b=1)) == "a1 a2 b1"


def test_a_sweep_loads_in_that_order() -> None:
    world = fleet(
        *(waiting(name, name[0], 60) for name in ("a1", "a2", "b1", "b2")),
        gpus=2,
    )
    plan = ask(world, Trigger.SWEEP, by=teams(a=1, b=1))
    assert shape(plan) == [("load", "a1"), ("load", "b1")]
    assert shape(ask(world, Trigger.SWEEP)) == [("load", "a1"), ("load", "a2")]


def test_a_new_model_leaves_room_for_those_whose_turn_is_before() -> None:
    queued = waiting("b1", "b", 60)
    new = model("a1", 60, team="a")
    world = fleet(queued, new, gpus=1, used={"a": 10.0})
    assert shape(ask(world, Trigger.INGEST, "a1", teams(a=1, b=1))) == [("queue", "a1")]
    less = world.model_copy(update={"used": {"b": 10.0}})
    assert shape(ask(less, Trigger.INGEST, "a1", teams(a=1, b=1))) == [("load", "a1")]


def test_the_builder_orders_by_class_value_and_advice() -> None:
    world = fleet(waiting("x"), waiting("y"), waiting("z"))
    made = builder(world, values={"y": 5.0}, advice=Advice(order=("z",)))
    assert [m.name for m in made.in_order(world.models)] == ["z", "y", "x"]
