"""A model that fits on no node is split over several."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.spanning import stage
from modelium.lifecycle import ModelState
from modelium.models import (
    Fleet,
    KVLayout,
    Load,
    LoadSettings,
    Model,
    Plan,
    Reject,
    RuntimeName,
    Traffic,
    Trigger,
)
from modelium.policy import validate
from tests.agents.rules.asking import ask
from tests.fakes.fleets import NOW, loaded, model, policy, profile
from tests.fakes.node_fleets import node, over


def huge(gib: float = 200, **given: Any) -> Model:
    files = profile(gib, tensor_parallel_degrees=(1, 2), layers=80)
    waiting = Traffic(pending=1, first_request_at=NOW - 5)
    return model("huge", profile=files, state=ModelState.QUEUED, traffic=waiting, **given)


def world(*models: Model, names: str = "abc", spans: str = "abc", **given: Any) -> Fleet:
    nodes = tuple(node(n, report={"address": f"http://{n}:8080"}) for n in names)
    found = over(*nodes, gpus=2, models=models, **given)
    runtimes = tuple(
        r.model_copy(update={"spans_nodes": r.name is RuntimeName.VLLM and r.node in spans})
        for r in found.runtimes
    )
    return found.model_copy(update={"runtimes": runtimes})


def load(plan: Plan) -> Load:
    (found,) = plan.loads
    return found


def test_it_takes_as_few_nodes_as_can_hold_it_and_all_parts_are_booked_at_once() -> None:
    held = loaded("held", "a/g0", gib=10, pinned=True)
    found = load(ask(world(held, huge()), Trigger.DEMAND, "huge"))
    settings = found.settings
    assert (settings.tensor_parallel_size, settings.pipeline_parallel_size) == (2, 2)
    assert found.devices == ("a/g0", "a/g1", "b/g0", "b/g1"), "the tightest nodes"
    assert set(found.reserve) == set(found.devices)
    three = load(ask(world(huge(gib=400)), Trigger.DEMAND, "huge"))
    assert (three.settings.pipeline_parallel_size, len(three.devices)) == (3, 6)


def test_what_fits_on_one_node_is_never_split_over_several() -> None:
    found = load(ask(world(huge(gib=140)), Trigger.DEMAND, "huge"))
    assert (found.settings.pipeline_parallel_size, found.devices) == (1, ("a/g0", "a/g1"))


def test_models_make_room_for_it_on_the_nodes_where_that_costs_least() -> None:
    usual = {"first_request_at": NOW - 9e4, "rates": (0.1,) * 4, "qps_last_hour": 1.0}
    others = tuple(
        loaded(f"on-{n}", f"{n}/g0", gib=60, traffic=Traffic(last_request_at=NOW - ago, **usual))
        for n, ago in (("a", 5), ("b", 3000), ("c", 2000))
    )
    plan = ask(world(*others, huge()), Trigger.DEMAND, "huge")
    assert {device[0] for device in load(plan).devices} == {"b", "c"}
    assert {unload.model for unload in plan.unloads} == {"on-b", "on-c"}


@pytest.mark.parametrize("spans", ["", "a"])
def test_nodes_whose_engine_cannot_hold_a_part_are_no_choice(spans: str) -> None:
    plan = ask(world(huge(), spans=spans), Trigger.DEMAND, "huge")
    assert plan.loads == ()
    assert isinstance(plan.actions[0], Reject)


def test_nodes_without_an_address_are_no_choice() -> None:
    mute = world(huge(), names="ab")
    mute = mute.model_copy(update={"nodes": (mute.nodes[0], node("b"))})
    assert ask(mute, Trigger.DEMAND, "huge").loads == ()


@pytest.mark.parametrize(
    ("devices", "settings", "rule"),
    [
        (("a/g0", "b/g0"), {"pipeline_parallel_size": 2}, ""),
        (("a/g0", "a/g1"), {"pipeline_parallel_size": 2}, "devices"),
        (("a/g0", "b/g0"), {"tensor_parallel_size": 2}, "devices"),
        (
            ("a/g0", "b/g0", "a/g1", "b/g1"),
            {"pipeline_parallel_size": 2, "tensor_parallel_size": 2},
            "devices",
        ),
        (("a/g0", "b/g0"), {}, "devices"),
        (("a/g0", "d/g0"), {"pipeline_parallel_size": 2}, "spans-nodes"),
    ],
)
def test_the_validator_knows_what_a_split_is(
    devices: tuple[str, ...], settings: dict[str, int], rule: str
) -> None:
    subject = huge(gib=100)
    given = world(subject, names="abd")
    action = Load(
        model="huge",
        runtime=RuntimeName.VLLM,
        devices=devices,
        settings=LoadSettings(**settings),
        reserve=dict.fromkeys(devices, 60 * 1024**3),
        reason="r",
    )
    plan = Plan(author="llm", trigger=Trigger.DEMAND, subject="huge", actions=(action,))
    found = {fault.rule for fault in validate(plan, given, policy(), now=NOW)} - {"reserve"}
    assert found == ({rule} if rule else set())


def test_a_stage_has_its_share_rounded_up_and_a_table() -> None:
    whole = profile(
        80,
        layers=81,
        vocabulary_size=1000,
        hidden_size=100,
        kv=KVLayout(full_layers=81, kv_heads=8, key_dim=128, value_dim=128),
    )
    part = stage(whole, 2)
    assert part.layers == 41
    assert part.kv is not None and part.kv.full_layers == 41
    assert part.weight_bytes == -(-whole.weight_bytes * 41 // 81) + 200_000
