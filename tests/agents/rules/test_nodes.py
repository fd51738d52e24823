"""Where models go in a fleet of several nodes."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    EvictionCause,
    Keep,
    Load,
    Model,
    Plan,
    Queue,
    RuntimeName,
    Traffic,
    Trigger,
    Unload,
)
from modelium.models.advice import Advice, advised
from modelium.models.base import Priority
from tests.agents.rules.asking import ask
from tests.fakes.fleets import NOW, loaded, model, policy
from tests.fakes.node_fleets import node, over

A, B = node("a"), node("b")
WAITING = Traffic(pending=1, first_request_at=NOW - 50, last_request_at=NOW - 50)


def wanted(name: str = "m", gib: float = 10, **given: Any) -> Model:
    return model(name, gib, state=ModelState.QUEUED, traffic=WAITING, **given)


def placed(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {load.model: load.devices for load in plan.loads}


def waits(plan: Plan) -> str:
    (action,) = plan.actions
    assert isinstance(action, Queue)
    return action.reason


@pytest.mark.parametrize(
    ("closed", "why"),
    [
        (node("a", state="cordoned"), "node a is cordoned"),
        (node("a", state="draining"), "node a is being drained"),
        (node("a", silent_s=42.0), "node a has been silent for 42 s"),
        (node("a", strays=2), "node a still ends 2 engines"),
        (node("a", report={"settled": False}), "node a still compares the store"),
    ],
)
def test_nothing_new_is_loaded_on_a_closed_node_and_the_reason_is_named(
    closed: Any, why: str
) -> None:
    both = over(closed, B, models=(wanted(),))
    assert placed(ask(both, Trigger.DEMAND, "m")) == {"m": ("b/g0",)}
    alone = ask(over(closed, models=(wanted(),)), Trigger.DEMAND, "m")
    assert why in waits(alone)
    assert any(why in candidate.lost for candidate in alone.candidates), "explain shows it"


def test_a_constraint_names_nodes_or_their_labels() -> None:
    world = over(A, node("b", report={"labels": {"gpu": "large"}}), models=(wanted(),))
    for constraint in ("b", "gpu=large"):
        plan = ask(world, Trigger.DEMAND, "m", policy(model_nodes={"m": (constraint,)}))
        assert placed(plan) == {"m": ("b/g0",)}
    refused = ask(world, Trigger.DEMAND, "m", policy(model_nodes={"m": ("gpu=small", "c")}))
    assert "models.m.nodes allows gpu=small, c, and not node a" in waits(refused)


def test_a_model_goes_where_its_files_are_also_if_it_fits_better_elsewhere() -> None:
    held = loaded("other", "a/g0", gib=60)
    world = over(A, B, models=(held, wanted()), files={"m": frozenset({"b"})})
    assert placed(ask(world, Trigger.DEMAND, "m")) == {"m": ("b/g0",)}
    fetching = node("a", report={"fetches": True})
    world = over(fetching, B, models=(held, wanted()), files={"m": frozenset({"b"})})
    assert placed(ask(world, Trigger.DEMAND, "m")) == {"m": ("b/g0",)}


def test_files_are_fetched_where_the_node_that_has_them_has_no_room() -> None:
    busy = loaded("other", "b/g0", gib=70, pinned=True)
    files = {"m": frozenset({"b"})}
    world = over(A, B, models=(busy, wanted()), files=files)
    why = waits(ask(world, Trigger.DEMAND, "m"))
    assert "its files are not on node a, which does not fetch" in why
    fetching = node("a", report={"fetches": True})
    world = over(fetching, B, models=(busy, wanted()), files=files)
    assert placed(ask(world, Trigger.DEMAND, "m")) == {"m": ("a/g0",)}
    gone = over(fetching, node("b", silent_s=20), models=(wanted(),), files=files)
    assert "no node that answers has its files" in waits(ask(gone, Trigger.DEMAND, "m"))


def test_a_transfer_weighs_against_the_evictions_that_it_spares() -> None:
    fetching = node("a", report={"fetches": True, "fetch_bytes_per_s": GIB / 10.0})
    dear = Traffic(
        first_request_at=NOW - 9e4, last_request_at=NOW - 30, rates=(1.0,) * 4, qps_last_hour=1.0
    )
    cheap = Traffic(first_request_at=NOW - 9e4, last_request_at=NOW - 9e4, rates=(0.0,) * 4)
    for on_a, on_b, expected in ((dear, dear, "b"), (cheap, dear, "a"), (cheap, cheap, "b")):
        models = (
            loaded("x", "a/g0", gib=70, traffic=on_a),
            loaded("y", "b/g0", gib=70, traffic=on_b),
            wanted(),
        )
        world = over(fetching, B, models=models, files={"m": frozenset({"b"})})
        assert placed(ask(world, Trigger.DEMAND, "m")) == {"m": (f"{expected}/g0",)}


def test_a_runtime_counts_on_its_own_node() -> None:
    world = over(A, B, models=(wanted(),))
    for fault in ({"healthy": False}, {"enabled": False}, {"device_kinds": frozenset({"cpu"})}):
        sick = tuple(
            r.model_copy(update=fault) if r.node == "a" else r
            for r in world.runtimes
            if r.name is RuntimeName.VLLM
        )
        plan = ask(world.model_copy(update={"runtimes": sick}), Trigger.DEMAND, "m")
        assert placed(plan) == {"m": ("b/g0",)}


def test_equally_full_devices_are_packed_or_spread_over_the_nodes() -> None:
    held = loaded("held", "b/g0", gib=30, pinned=True)
    world = over(A, B, gpus=2, models=(held, wanted(gib=60)))
    for way, device in (("pack", "b/g1"), ("spread", "a/g0")):
        plan = ask(world, Trigger.DEMAND, "m", policy(placement=way))
        assert placed(plan) == {"m": (device,)}
    small = over(A, B, gpus=2, models=(held, wanted(gib=10)))
    assert placed(ask(small, Trigger.DEMAND, "m", policy(placement="pack"))) == {"m": ("b/g0",)}
    assert placed(ask(small, Trigger.DEMAND, "m", policy(placement="spread"))) == {"m": ("a/g0",)}


def test_what_a_silent_node_holds_is_neither_idled_out_nor_evicted() -> None:
    idle = loaded("idle", "a/g0", gib=70, idle_s=9000)
    world = over(node("a", silent_s=42), B, models=(idle,))
    assert ask(world, Trigger.SWEEP).actions == ()
    heard = ask(over(A, B, models=(idle,)), Trigger.SWEEP)
    assert [action.action for action in heard.actions] == ["unload"]


def test_a_model_that_sleeps_wakes_on_a_cordoned_node_but_not_on_a_silent_one() -> None:
    asleep = loaded("m", "a/g0", state=ModelState.SLEEPING, traffic=WAITING)
    for state in ("cordoned", "draining"):
        world = over(node("a", state=state), B, models=(asleep,))
        assert placed(ask(world, Trigger.DEMAND, "m")) == {"m": ("a/g0",)}
    silent = ask(over(node("a", silent_s=42), B, models=(asleep,)), Trigger.DEMAND, "m")
    assert isinstance(silent.actions[0], Keep)


def test_advice_keeps_the_nodes_and_files_of_the_fleet() -> None:
    world = over(A, B, models=(wanted(),), files={"m": frozenset({"b"})})
    seen = advised(world, Advice(priorities={"m": Priority.HIGH}))
    assert (seen.nodes, seen.files) == (world.nodes, world.files)


DRAINING = node("a", state="draining")


def moves(*models: Model, by: Any = None, **given: Any) -> tuple[list[str], dict[str, str]]:
    """Return what a sweep unloads for the drain of node a, and why the others stay."""
    plan = ask(over(DRAINING, B, models=models, **given), Trigger.SWEEP, by=by)
    for unload in plan.unloads:
        assert unload.cause is EvictionCause.DRAIN
    kept = {a.model: a.reason for a in plan.actions if isinstance(a, Keep)}
    return [unload.model for unload in plan.unloads], kept


def test_a_drained_node_gives_up_one_model_at_a_time_the_longest_idle_first() -> None:
    busy = loaded("busy", "a/g0", gib=5, traffic=Traffic(in_flight=1, first_request_at=NOW))
    models = (busy, loaded("new", "a/g0", idle_s=10), loaded("old", "a/g0", idle_s=500))
    gone, kept = moves(*models)
    assert gone == ["old"]
    assert {name: why.split(": ")[-1] for name, why in kept.items()} == {
        "new": "old goes first",
        "busy": "old goes first",
    }
    leaving = loaded("old", "a/g0", state=ModelState.DRAINING)
    assert moves(busy, leaving)[0] == []
    assert moves(busy)[0] == ["busy"], "it is in use all the time, and moves last"


def test_a_drain_requeues_what_is_awake_and_lets_go_of_what_sleeps() -> None:
    models = (loaded("m", "a/g0"),)
    plan = ask(over(DRAINING, B, models=models), Trigger.SWEEP)
    assert [(u.model, u.requeue, u.sleep) for u in plan.unloads] == [("m", True, False)]
    asleep = loaded("m", "a/g0", state=ModelState.SLEEPING)
    plan = ask(over(DRAINING, B, models=(asleep,)), Trigger.SWEEP)
    assert [(u.model, u.requeue) for u in plan.unloads] == [("m", False)]


def test_what_no_other_node_can_hold_stays_with_its_reason() -> None:
    pinned = loaded("pin", "a/g0", gib=60, pinned=True)
    assert moves(pinned)[0] == ["pin"], "a pin holds the model in memory, not on a node"
    gone, kept = moves(pinned, loaded("full", "b/g0", gib=50))
    assert gone == []
    assert "no other node has room for it without evictions" in kept["pin"]
    gone, kept = moves(pinned, by=policy(model_nodes={"pin": ("a",)}))
    assert gone == []
    assert "models.pin.nodes allows a, and not node b" in kept["pin"]


def test_a_moved_model_is_loaded_on_the_other_node() -> None:
    queued = model("m", state=ModelState.QUEUED, evicted_at=NOW - 60, queued_at=NOW - 60)
    plan = ask(over(DRAINING, B, models=(queued,)), Trigger.SWEEP)
    assert placed(plan) == {"m": ("b/g0",)}


def test_without_nodes_nothing_of_it_is_active() -> None:
    world = over(A, models=(wanted(),), nodes=(), files={"m": frozenset({"z"})})
    plan = ask(world, Trigger.DEMAND, "m", policy(model_nodes={"m": ("z",)}))
    assert placed(plan) == {"m": ("a/g0",)}
    assert isinstance(plan.actions[-1], Load)
    assert not any(isinstance(action, Unload) for action in plan.actions)
