"""Quotas of teams: what counts, whom they bind, and how the validator names them."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import GIB, Booking, Fleet, Model, Plan, Trigger, Unload
from modelium.policy import Policy, TeamRules, validate
from modelium.policy.quotas import exceeded, rates, rules_for, spent, team_bytes
from modelium.policy.team_reports import described, team_reports
from tests.fakes.fleets import NOW, fleet, loaded, model, policy
from tests.modelium.policy.plans import broken, load

LAB = TeamRules(memory_bytes=30 * GIB)


def of_lab(gib: float | None = 30, seconds: float | None = None, **given: Any) -> Policy:
    rules = TeamRules(
        memory_bytes=None if gib is None else int(gib * GIB), gpu_seconds_per_day=seconds
    )
    return policy(teams={"lab": rules}, **given)


def crowd(**given: Any) -> Fleet:
    """20 GiB of team lab are loaded, 40 GiB of prod, and 10 of nobody."""
    return fleet(
        loaded("a", "n/g0", gib=20, team="lab"),
        loaded("b", "n/g0", gib=40, team="prod"),
        loaded("c", "n/g1", gib=10),
        model("new", 10, team="lab"),
        model("more", 10, team="lab"),
        **given,
    )


def test_a_gpu_second_is_a_second_of_a_whole_device() -> None:
    split = loaded("s", "n/g0", "n/g1", gib=80, team="lab")
    half = loaded("h", "n/g0", gib=40, team="prod")
    found = rates(fleet(split, half, loaded("n", "n/g1", gib=8)))
    assert found == pytest.approx({"lab": 1.0, "prod": 0.5, "": 0.1})
    unknown = Booking(model="ghost", device="n/g0", bytes=GIB)
    lost = Booking(model="h", device="n/gone", bytes=GIB)
    assert rates(fleet(model("h"), bookings=(unknown, lost))) == {}
    empty = fleet(half, gib=0)
    assert empty.devices[0].total_bytes == 0 and rates(empty) == {}


def test_a_team_holds_what_is_booked_for_its_models() -> None:
    world = crowd()
    assert team_bytes("lab", world) == 20 * GIB
    assert team_bytes("lab", world, leaving={"a"}) == 0
    more = [Booking(model=name, device="n/g1", bytes=GIB) for name in ("new", "c", "ghost")]
    assert team_bytes("lab", world, more) == 21 * GIB
    assert team_bytes("lab", world, more, leaving=("new",)) == 20 * GIB


@pytest.mark.parametrize(
    ("given", "trigger", "subject", "bound"),
    [
        ({"team": "lab"}, Trigger.DEMAND, "m", True),
        ({"team": "lab"}, Trigger.TEAM, "m", True),
        ({"team": "lab"}, Trigger.OPERATOR, "m", False),
        ({"team": "lab"}, Trigger.OPERATOR, "other", True),
        ({"team": "lab"}, Trigger.SWEEP, None, True),
        ({"team": "lab", "pinned": True}, Trigger.SWEEP, None, False),
        ({"team": "prod"}, Trigger.SWEEP, None, False),
        ({}, Trigger.SWEEP, None, False),
    ],
)
def test_quotas_bind_all_but_an_operators_own_word(
    given: dict[str, Any], trigger: Trigger, subject: str | None, bound: bool
) -> None:
    by = policy(teams={"lab": LAB})
    asked = {"trigger": trigger, "subject": subject}
    subjects = model("m", **given), model("m@2", team=given.get("team"), twin_of="m")
    world = fleet(*subjects)
    listed = policy(teams={"lab": LAB}, always_loaded=frozenset({"m"}))
    for one in subjects if subject != "m" else subjects[:1]:
        assert rules_for(one, world, by, **asked) == (LAB if bound else None)
        assert rules_for(one, world, listed, **asked) is None


def test_used_up_is_what_reaches_the_quota() -> None:
    by = of_lab(seconds=100)
    assert spent("lab", fleet(used={"lab": 99.9}), by) == ""
    assert spent("lab", fleet(used={"lab": 100.0}), by) == (
        "team lab has used 100 GPU-seconds in 24 h; its gpu_seconds_per_day is 100"
    )
    assert spent("prod", fleet(used={"prod": 1e9}), by) == ""
    assert spent(None, fleet(used={"": 1e9}), by) == ""
    assert spent("lab", fleet(used={"lab": 1e9}), of_lab()) == ""


def test_the_memory_quota_itself_is_allowed() -> None:
    assert exceeded("lab", 20 * GIB, 10 * GIB, LAB) == ""
    assert exceeded("lab", 20 * GIB, 10 * GIB + 1, LAB) == (
        "needs 10.00 GiB beside the 20.00 GiB that team lab holds; its memory_quota_gib is "
        "30.00 GiB"
    )
    assert exceeded("lab", 20 * GIB, 10**15, TeamRules()) == ""


def test_the_validator_adds_up_a_plans_loads_and_unloads() -> None:
    world = crowd()
    assert broken(world, load("new", "n/g1"), by=of_lab()) == []
    both = (load("new", "n/g1"), load("more", "n/g1"))
    assert broken(world, *both, by=of_lab()) == ["team-quota"]
    assert broken(world, *both, by=of_lab(40)) == []
    out = Unload(model="a", reason="r")
    assert broken(world, out, *both, by=of_lab()) == []
    assert broken(world, *both, out, by=of_lab()) == ["team-quota"], "it frees nothing before"


def test_a_model_that_is_booked_already_does_not_count_twice() -> None:
    world = fleet(
        loaded("a", "n/g0", gib=20, team="lab", state=ModelState.SLEEPING),
        bookings=(Booking(model="a", device="n/g0", bytes=20 * GIB),),
    )
    assert "team-quota" not in broken(world, load("a", "n/g0", gib=30), by=of_lab())


def test_the_validator_names_the_quota_and_the_figures() -> None:
    world = crowd(used={"lab": 50.0})
    plan = Plan(author="llm", trigger=Trigger.REVIEW, actions=(load("new", "n/g1", gib=11),))
    found = validate(plan, world, of_lab(seconds=50), now=NOW)
    assert [(v.rule, v.subject, v.message) for v in found] == [
        (
            "team-quota",
            "new",
            "new: team lab has used 50 GPU-seconds in 24 h; its gpu_seconds_per_day is 50",
        ),
        (
            "team-quota",
            "new",
            "new: needs 11.00 GiB beside the 20.00 GiB that team lab holds; its memory_quota_gib "
            "is 30.00 GiB",
        ),
    ]


def test_a_version_that_is_to_replace_another_keeps_the_quotas() -> None:
    twin = model("a@2", 10, team="lab", twin_of="a")
    world = fleet(model("a", 10, team="lab"), twin, used={"lab": 50.0})
    for name in ("a@2", "a"):
        assert broken(world, load(name, "n/g1"), by=of_lab(10, 50)) == ["team-quota"]
        assert broken(world, load(name, "n/g1"), by=of_lab(10, 51)) == []
    assert broken(world, load("a@2", "n/g1", gib=11), by=of_lab(10, 51)) == ["team-quota"]


def test_an_operators_load_is_free() -> None:
    world = crowd(used={"lab": 50.0})
    by = of_lab(1, 1)
    assert broken(world, load("new", "n/g1"), by=by, trigger=Trigger.OPERATOR, subject="new") == []
    assert broken(world, load("new", "n/g1"), by=by) == ["team-quota", "team-quota"]


def test_a_team_is_reported_with_what_it_has_of_what_it_may_have() -> None:
    twin: Model = model("a@2", 10, team="lab", twin_of="a")
    queued = model("q", 10, team="lab", state=ModelState.QUEUED)
    world = fleet(*crowd().models, queued, twin, used={"lab": 12.4, "gone": 3.0})
    rules = TeamRules(memory_bytes=30 * GIB, gpu_seconds_per_day=100.0, weight=2.0)
    lab, prod, spare = team_reports(world, policy(teams={"lab": rules, "spare": TeamRules()}))
    assert lab.model_dump() == {
        "name": "lab",
        "declared": True,
        "weight": 2.0,
        "models": 4,
        "loaded": 1,
        "queued": 1,
        "held_bytes": 20 * GIB,
        "memory_quota_bytes": 30 * GIB,
        "gpu_seconds": 12.4,
        "gpu_seconds_quota": 100.0,
    }
    assert (prod.name, prod.declared, prod.held_bytes) == ("prod", False, 40 * GIB)
    assert (spare.name, spare.models, spare.gpu_seconds) == ("spare", 0, 0.0)
    assert described(lab) == (
        "team lab holds 20.00 GiB of its 30.00 GiB of device memory and has used 12 of its 100 "
        "GPU-seconds in 24 h; its weight is 2"
    )
    assert described(prod) == "team prod holds 40.00 GiB of device memory"
    assert described(spare) == (
        "team spare holds 0.00 GiB of device memory and has used 0 GPU-seconds in 24 h; its weight "
        "is 1"
    )
