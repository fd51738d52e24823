"""Plans over several nodes: each rule that the validator has for them."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import EvictionCause, Fleet, Plan, RuntimeName, Trigger, Unload
from modelium.policy import Policy, validate
from modelium.policy.node_rules import holds
from tests.fakes.fleets import NOW, loaded, model, policy
from tests.fakes.node_fleets import node, over
from tests.modelium.policy.plans import load

A, B = node("a"), node("b")


def broken(
    world: Fleet, *actions: Any, by: Policy | None = None, trigger: Trigger = Trigger.SWEEP
) -> set[str]:
    plan = Plan(author="llm", trigger=trigger, subject=actions[0].model, actions=actions)
    return {found.rule for found in validate(plan, world, by or policy(), now=NOW)}


def on_a(name: str = "m") -> Any:
    return load(name, "a/g0")


@pytest.mark.parametrize(
    ("closed", "rule"),
    [
        (node("a", state="cordoned"), "node-cordoned"),
        (node("a", state="draining"), "node-draining"),
        (node("a", silent_s=15.1), "node-silent"),
        (node("a", strays=1), "node-unsettled"),
        (node("a", report={"settled": False}), "node-unsettled"),
        (node("z"), "node-unknown"),
    ],
)
def test_nothing_is_loaded_on_a_node_that_takes_no_models(closed: Any, rule: str) -> None:
    fine = over(A, B, models=(model("m"),))
    assert broken(fine, on_a()) == set()
    assert rule in broken(fine.model_copy(update={"nodes": (closed, B)}), on_a())


def test_constraints_and_files_bind_every_plan() -> None:
    world = over(A, node("b", report={"fetches": True}), models=(model("m"),))
    assert broken(world, on_a(), by=policy(model_nodes={"m": ("b",)})) == {"node-constraint"}
    only_b = world.model_copy(update={"files": {"m": frozenset({"b"})}})
    assert broken(only_b, on_a()) == {"node-files"}
    only_a = world.model_copy(update={"files": {"m": frozenset({"a"})}})
    on_b = load("m", "b/g0")
    assert broken(only_a, on_b) == set(), "it fetches them"
    gone = only_a.model_copy(update={"nodes": (node("a", silent_s=20), world.nodes[1])})
    assert broken(gone, on_b) == {"node-files"}


def test_the_runtime_of_that_node_counts() -> None:
    world = over(A, B, models=(model("m"),))
    for fault, rule in (
        ({"healthy": False}, "runtime-unavailable"),
        ({"enabled": False}, "runtime-disabled"),
        ({"device_kinds": frozenset({"cpu"})}, "device-kind"),
    ):
        runtimes = tuple(r.model_copy(update=fault) if r.node == "a" else r for r in world.runtimes)
        assert broken(world.model_copy(update={"runtimes": runtimes}), on_a()) == {rule}
    absent = tuple(r for r in world.runtimes if r.node == "b")
    assert broken(world.model_copy(update={"runtimes": absent}), on_a()) == {"unknown-runtime"}


def test_what_a_silent_node_holds_is_unloaded_by_nobody() -> None:
    held = loaded("m", "a/g0", idle_s=9000)
    silent = over(node("a", silent_s=42), B, models=(held,))
    gone = Unload(model="m", reason="r")
    assert broken(over(A, B, models=(held,)), gone) == set()
    assert broken(silent, gone) == {"node-silent"}
    assert broken(silent, gone, trigger=Trigger.OPERATOR) == {"node-silent"}


def test_a_drain_may_move_what_is_pinned_or_in_use_where_another_node_may_load_it() -> None:
    draining = node("a", state="draining")
    busy = loaded("m", "a/g0", pinned=True)
    busy = busy.model_copy(update={"traffic": busy.traffic.model_copy(update={"in_flight": 2})})
    move = Unload(model="m", requeue=True, cause=EvictionCause.DRAIN, reason="r")
    assert broken(over(draining, B, models=(busy,)), move) == set()
    for world in (
        over(A, B, models=(busy,)),
        over(draining, node("b", state="cordoned"), models=(busy,)),
    ):
        assert "drain" in broken(world, move)
    assert {"pinned", "in-flight"} <= broken(over(A, B, models=(busy,)), move)
    dropped = move.model_copy(update={"requeue": False})
    assert {"drain", "pinned"} <= broken(over(draining, B, models=(busy,)), dropped)
    asleep = loaded("m", "a/g0", state=ModelState.SLEEPING)
    assert broken(over(draining, models=(asleep,)), dropped) == set()


def test_a_sleeping_model_may_wake_on_a_cordoned_node() -> None:
    asleep = loaded("m", "a/g0", state=ModelState.SLEEPING)
    for state in ("cordoned", "draining"):
        assert broken(over(node("a", state=state), B, models=(asleep,)), on_a()) == set()
    assert "node-silent" in broken(over(node("a", silent_s=20), B, models=(asleep,)), on_a())


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [("a", True), ("b", False), ("zone=x", True), ("zone=y", False), ("rack=x", False)],
)
def test_a_constraint_is_a_name_or_a_label(constraint: str, expected: bool) -> None:
    assert holds(constraint, "a", {"zone": "x"}) is expected


def test_a_runtime_without_a_node_is_that_of_the_only_one() -> None:
    world = over(A, models=(model("m"),), nodes=())
    runtimes = tuple(r.model_copy(update={"node": ""}) for r in world.runtimes)
    assert runtimes[0].name is RuntimeName.VLLM
    assert broken(world.model_copy(update={"runtimes": runtimes}), on_a()) == set()
