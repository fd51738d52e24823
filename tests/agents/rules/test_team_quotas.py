"""A team's loads stay within its quotas: its own models make room, or the load waits."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.team_quotas import TeamQuotas
from modelium.lifecycle import ModelState
from modelium.models import GIB, Fleet, KVLayout, Load, Model, Plan, Queue, Traffic, Trigger, Unload
from modelium.policy import Policy, TeamRules
from tests.agents.rules.asking import ask, shape, traffic
from tests.agents.rules.building import builder
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile

HELD = "needs 30.00 GiB beside the 30.00 GiB that team lab holds; its memory_quota_gib is 40.00 GiB"
USED = "team lab has used 60 GPU-seconds in 24 h; its gpu_seconds_per_day is 60"


def lab(gib: float | None = 40, seconds: float | None = None, **given: Any) -> Policy:
    memory = None if gib is None else int(gib * GIB)
    rules = TeamRules(memory_bytes=memory, gpu_seconds_per_day=seconds)
    return policy(teams={"lab": rules, "prod": TeamRules()}, **given)


def old(**given: Any) -> Model:
    return loaded("old", "n/g0", gib=30, team="lab", **given)


def new(**given: Any) -> Model:
    return model("new", 30, team="lab", **given)


def reasons(plan: Plan) -> dict[str, str]:
    return {action.model: action.reason for action in plan.actions}


def test_at_its_memory_quota_a_team_makes_room_among_its_own_models() -> None:
    plan = ask(fleet(old(), new()), Trigger.DEMAND, "new", lab())
    assert shape(plan) == [("unload", "old"), ("load", "new")]
    assert reasons(plan)["old"] == (
        "makes room for new in the memory quota of team lab: idle for 600 s, and cheapest to evict "
        "of the team's models"
    )
    (unload,) = plan.unloads
    assert (unload.cause, unload.sleep, unload.requeue) == ("space", False, False)


def test_without_a_quota_nothing_makes_room_where_there_is_memory() -> None:
    for by in (policy(), lab(None), lab(60)):
        assert shape(ask(fleet(old(), new()), Trigger.DEMAND, "new", by)) == [("load", "new")]


@pytest.mark.parametrize("busy", [{"traffic": Traffic(in_flight=1)}, {"pinned": True}])
def test_a_team_whose_models_cannot_leave_waits_with_the_reason(busy: dict[str, Any]) -> None:
    plan = ask(fleet(old(**busy), new()), Trigger.DEMAND, "new", lab())
    assert shape(plan) == [("queue", "new")]
    assert reasons(plan)["new"] == HELD
    lost = {candidate.lost for candidate in plan.candidates}
    assert lost == {"30.00 GiB per device: more than is left of its team's memory quota"}


def test_the_models_of_other_teams_make_no_room_in_a_quota() -> None:
    world = fleet(
        old(traffic=Traffic(in_flight=1)), loaded("b", "n/g1", gib=30, team="prod"), new()
    )
    assert shape(ask(world, Trigger.DEMAND, "new", lab())) == [("queue", "new")]


def test_a_new_model_displaces_only_models_of_its_team_that_idled_out() -> None:
    assert shape(ask(fleet(old(), new()), Trigger.INGEST, "new", lab())) == [("queue", "new")]
    idle = old(traffic=traffic(9000, 0.0))
    plan = ask(fleet(idle, new()), Trigger.INGEST, "new", lab())
    assert shape(plan) == [("unload", "old"), ("load", "new")]


def test_an_operator_may_exceed_the_quota() -> None:
    world = fleet(old(), new(), used={"lab": 99.0})
    assert shape(ask(world, Trigger.OPERATOR, "new", lab(40, 60))) == [("load", "new")]


def test_a_model_that_is_always_loaded_counts_but_is_free() -> None:
    by = lab(40, 60, always_loaded=frozenset({"new"}))
    assert shape(ask(fleet(old(), new(), used={"lab": 99.0}), Trigger.SWEEP, by=by)) == [
        ("load", "new")
    ]


def test_the_cheapest_suffice_and_the_others_stay() -> None:
    models = (
        loaded("small", "n/g0", gib=5, team="lab", traffic=traffic(2000, 0.0001)),
        loaded("large", "n/g0", gib=20, team="lab", traffic=traffic(1000, 0.001)),
        loaded("hot", "n/g1", gib=10, team="lab", traffic=traffic(3, 2.0)),
        model("next", 20, team="lab"),
    )
    plan = ask(fleet(*models), Trigger.DEMAND, "next", lab(38))
    assert shape(plan) == [("unload", "large"), ("load", "next")]


def test_room_in_the_quota_and_on_the_devices_is_made_at_once() -> None:
    world = fleet(
        loaded("old", "n/g0", gib=30, team="lab"),
        loaded("b", "n/g0", gib=35, team="prod"),
        loaded("c", "n/g1", gib=70, pinned=True),
        model("next", 40, team="lab"),
        used={},
    )
    plan = ask(world, Trigger.DEMAND, "next", lab())
    assert shape(plan) == [("unload", "old"), ("unload", "b"), ("load", "next")]


def test_nothing_leaves_for_a_model_that_has_no_room_afterwards() -> None:
    world = fleet(
        loaded("old", "n/g0", gib=30, team="lab"),
        loaded("b", "n/g0", gib=40, pinned=True),
        loaded("c", "n/g1", gib=70, pinned=True),
        model("next", 40, team="lab"),
    )
    plan = ask(world, Trigger.DEMAND, "next", lab())
    assert shape(plan) == [("queue", "next")]
    assert "no device has room now" in reasons(plan)["next"]


def test_a_context_shrinks_to_what_the_quota_leaves() -> None:
    files = profile(10, context_length=8192, kv_bytes_per_token=GIB // 256, kv=KVLayout())
    subject = model("new", team="lab", profile=files)
    (load,) = ask(fleet(subject), Trigger.DEMAND, "new", lab(26)).loads
    assert load.settings.max_model_len == 4096
    assert sum(load.reserve.values()) == 26 * GIB


def test_a_larger_model_than_the_quota_waits_with_the_reason() -> None:
    plan = ask(fleet(model("huge", 60, team="lab")), Trigger.DEMAND, "huge", lab())
    assert reasons(plan) == {
        "huge": "needs 60.00 GiB beside the 0.00 GiB that team lab holds; its memory_quota_gib is "
        "40.00 GiB"
    }


def test_a_split_model_counts_on_all_its_devices() -> None:
    split = model("split", team="lab", profile=profile(80, tensor_parallel_degrees=(2,)))
    assert shape(ask(fleet(split), Trigger.DEMAND, "split", lab(79))) == [("queue", "split")]
    assert shape(ask(fleet(split), Trigger.DEMAND, "split", lab(80))) == [("load", "split")]


def test_beyond_its_gpu_seconds_nothing_of_a_team_is_loaded() -> None:
    world = fleet(new(), used={"lab": 60.0})
    for trigger in (Trigger.DEMAND, Trigger.INGEST):
        plan = ask(world, trigger, "new", lab(None, 60))
        assert [(type(a), a.reason) for a in plan.actions] == [(Queue, USED)]
    assert shape(ask(fleet(new(), used={"lab": 59.9}), Trigger.DEMAND, "new", lab(None, 60))) == [
        ("load", "new")
    ]


def test_a_version_that_replaces_another_waits_for_the_quotas_of_its_team() -> None:
    served = old(traffic=Traffic(in_flight=1))
    twin = model("old@2", 30, team="lab", twin_of="old")
    for used, by, why in ((60.0, lab(None, 60), USED), (59.0, lab(40, 60), HELD)):
        world = fleet(served, twin, used={"lab": used})
        (keep,) = ask(world, Trigger.INGEST, "old@2", by).actions
        assert keep.action == "keep"
        assert keep.reason == f"does not fit beside the version that is loaded: {why}"
    world = fleet(served, twin, used={"lab": 59.0})
    assert shape(ask(world, Trigger.INGEST, "old@2", lab(60, 60))) == [("load", "old@2")]
    pinned = fleet(old(pinned=True), twin, used={"lab": 60.0})
    assert shape(ask(pinned, Trigger.INGEST, "old@2", lab(40, 60))) == [("load", "old@2")]


def test_a_team_beyond_its_gpu_seconds_makes_room_for_queued_models_of_others() -> None:
    waiting = model("q", 60, team="prod", state=ModelState.QUEUED, queued_at=NOW - 60)
    held = [
        loaded("a", "n/g0", gib=60, team="lab", priority="high"),
        loaded("b", "n/g1", gib=60, team="prod", priority="high"),
    ]
    by = lab(None, 60)
    assert shape(ask(fleet(*held, waiting, used={"lab": 59.0}), Trigger.SWEEP, by=by)) == []
    plan = ask(fleet(*held, waiting, used={"lab": 60.0}), Trigger.SWEEP, by=by)
    assert shape(plan) == [("unload", "a"), ("load", "q")]
    busy = [held[0].model_copy(update={"traffic": Traffic(in_flight=1)}), held[1]]
    assert shape(ask(fleet(*busy, waiting, used={"lab": 60.0}), Trigger.SWEEP, by=by)) == []


def test_who_waits_for_a_quota_does_not_take_the_turn_of_who_starves() -> None:
    since = {"state": ModelState.QUEUED, "queued_at": NOW - 4000}
    barred = model("a", 60, team="lab", priority="high", **since)
    other = model("b", 60, **since)
    held = [loaded(f"h{i}", f"n/g{i}", gib=60, priority="high") for i in range(2)]
    world = fleet(*held, barred, other, used={"lab": 60.0})
    plan = ask(world, Trigger.SWEEP, by=lab(None, 60))
    assert ("load", "b") in shape(plan)
    assert ("load", "a") not in shape(plan)


def test_no_memory_is_set_aside_for_a_model_that_its_quota_keeps_from_it() -> None:
    queued = model("q", 70, team="lab", state=ModelState.QUEUED, priority="high")
    subject = model("new", 70)
    for by, used, expected in (
        (policy(), 0.0, "queue"),
        (lab(None, 60), 60.0, "load"),
        (lab(40), 0.0, "load"),
    ):
        world = fleet(queued, subject, gpus=1, used={"lab": used})
        assert shape(ask(world, Trigger.INGEST, "new", by)) == [(expected, "new")]


def quotas(world: Fleet, by: Policy) -> TeamQuotas:
    made = builder(world, by)
    return made.quotas


def test_what_is_left_counts_the_plans_own_loads_and_unloads() -> None:
    world = fleet(old(), new(), model("third", 5, team="lab"))
    made = builder(world, lab())
    third = world.models_by_name["third"]
    assert made.quotas.left(third) == 10 * GIB
    made.memory.load(world.models_by_name["new"], ("n/g1",), 4 * GIB)
    assert made.quotas.left(third) == 6 * GIB
    assert made.quotas.left(world.models_by_name["new"]) == 10 * GIB, "it does not count itself"
    made.memory.unload(world.models_by_name["old"])
    assert made.quotas.left(third) == 36 * GIB
    assert made.quotas.left(model("x", team="prod")) is None
    assert made.quotas.exceeded(model("x"), 10**15) == ""


def test_a_trial_leaves_the_plans_memory_as_it_is() -> None:
    world = fleet(old(), new())
    made = builder(world, lab())
    made.memory.load(world.models_by_name["new"], ("n/g0",), GIB)
    before = made.memory.room("n/g0")
    trial = made.memory.without([world.models_by_name["old"]])
    trial.load(world.models_by_name["new"], ("n/g0",), 2 * GIB)
    assert trial.room("n/g0") == before + 30 * GIB - 2 * GIB
    assert made.memory.room("n/g0") == before
    assert made.memory.leaving == set() and trial.leaving == {"old"}
    assert [b.bytes for b in made.memory.added()] == [GIB]
    assert [m.name for m in made.memory.evictable("n/g0")] == ["old"]


def test_only_models_that_hold_memory_make_room() -> None:
    world = fleet(new(), model("idle", 30, team="lab"))
    assert (
        quotas(world, lab(20)).yielding(world.models_by_name["new"], 30 * GIB, lambda _m: True)
        == ()
    )


def test_what_is_not_enough_does_not_leave() -> None:
    small = loaded("small", "n/g1", gib=5, team="lab")
    world = fleet(old(traffic=Traffic(in_flight=1)), small, new())
    made = quotas(world, lab())
    subject = world.models_by_name["new"]
    assert made.yielding(subject, 30 * GIB, lambda _m: True) == ()
    assert [m.name for m in made.yielding(subject, 10 * GIB, lambda _m: True)] == ["small"]
    assert made.yielding(subject, 10 * GIB, lambda _m: False) == ()
    assert made.yielding(subject, 5 * GIB, lambda _m: True) == (), "there is room"
    assert quotas(world, lab(None)).yielding(subject, GIB, lambda _m: True) == ()
    plan = ask(world, Trigger.DEMAND, "new", lab())
    assert shape(plan) == [("queue", "new")] and "team lab holds" in reasons(plan)["new"]


def test_the_loads_of_one_plan_share_the_quota() -> None:
    waiting = [
        model(name, 15, team="lab", state=ModelState.QUEUED, queued_at=NOW - 60)
        for name in ("a", "b", "c")
    ]
    plan = ask(fleet(*waiting), Trigger.SWEEP, by=lab())
    assert {a.model for a in plan.actions if isinstance(a, Load)} == {"a", "b"}
    assert not [a for a in plan.actions if isinstance(a, Unload)]
