"""The memory that a plan leaves, and which models it would hold on one device or several."""

from __future__ import annotations

from typing import Any

import pytest

from agents.llm.holes import Holes, fitting
from modelium.lifecycle import ModelState
from modelium.models import GIB, Fleet, Model, Plan
from modelium.models.advice import Advice, Spot
from tests.agents.advising import REVIEW, RULES, waiting
from tests.fakes.fleets import fleet, loaded, model, policy, profile

NOTHING = Plan(author="", trigger=REVIEW.trigger)


def holes(known: Fleet, plan: Plan = NOTHING) -> Holes:
    return Holes(plan=plan, fleet=known, policy=policy())


def test_the_largest_hole_is_what_a_plan_leaves_on_one_healthy_device() -> None:
    known = fleet(waiting("a", 10), loaded("b", "n/g0", gib=40), loaded("c", "n/g1", gib=30))
    plan = RULES.plan(REVIEW, known, policy())
    assert holes(known).largest == 42 * GIB
    assert holes(known, plan).largest == 42 * GIB
    there = Advice(spots={"a": Spot(devices=("n/g1",))})
    assert holes(known, RULES.plan(REVIEW, known, policy(), there)).largest == 32 * GIB
    sick = known.devices[1].model_copy(update={"healthy": False})
    half = known.model_copy(update={"devices": (known.devices[0], sick)})
    assert holes(half, plan).largest == 22 * GIB
    assert holes(fleet(gpus=0), plan).largest == 0


def test_what_a_plan_unloads_leaves_a_hole() -> None:
    known = fleet(waiting("a", 60), loaded("b", "n/g0", gib=60), gpus=1)
    paid = Advice(spots={"a": Spot(devices=("n/g0",), evicts=("b",))})
    plan = RULES.plan(REVIEW, known, policy(), paid)
    assert plan.unloads and holes(known, plan).largest == 12 * GIB


def devices(*nodes: str, **given: Any) -> Fleet:
    """Return one empty GPU of 72 GiB to be booked per node of ``nodes``."""
    known = fleet(gpus=len(nodes))
    placed = [
        device.model_copy(update={"node": node, **given})
        for device, node in zip(known.devices, nodes, strict=True)
    ]
    return known.model_copy(update={"devices": tuple(placed)})


@pytest.mark.parametrize(
    ("gib", "degrees", "known", "held"),
    [
        (72, (1,), devices("n"), True),
        (73, (1,), devices("n", "n"), False),
        (144, (1, 2), devices("n", "n"), True),
        (145, (1, 2), devices("n", "n"), False),
        (144, (1, 2), devices("n"), False),
        (144, (1, 2), devices("n", "m"), False),
        (144, (1, 2), devices("n", "m", "n"), True),
        (144, (1, 2, 4), devices("n", "n", "n", "n"), True),
        (216, (1, 2, 4), devices("n", "n", "n"), False),
        (72, (1, 2), devices("n", mig=1), True),
        (144, (1, 2), devices("n", "n", mig=1), False),
    ],
)
def test_a_model_is_split_over_alike_devices_of_one_node(
    gib: int, degrees: tuple[int, ...], known: Fleet, held: bool
) -> None:
    assert holes(known).hold(profile(gib, tensor_parallel_degrees=degrees)) is held


SPLIT = profile(140, tensor_parallel_degrees=(1, 2))


def test_absent_models_that_fit_after_one_plan_alone_are_found() -> None:
    def known(*others: Model) -> Fleet:
        return fleet(waiting("a", 10), loaded("b", "n/g0", gib=40), *others, gpus=3)

    tight, wide = (
        RULES.plan(REVIEW, known(), policy(), Advice(spots=spots))
        for spots in ({}, {"a": Spot(devices=("n/g1",))})
    )
    states = {
        "unloaded": ModelState.UNLOADED,
        "queued": ModelState.QUEUED,
        "failed": ModelState.FAILED,
    }
    all_of_them = known(
        *(model(name, profile=SPLIT, state=state) for name, state in states.items()),
        model("unknown", profile=None, state=ModelState.UNLOADED),
        model("small", 1, state=ModelState.UNLOADED),
        model("large", 200, state=ModelState.UNLOADED),
    )
    found = fitting(tight, wide, all_of_them, policy())
    assert [m.name for m in found] == ["unloaded", "queued"]
    assert fitting(wide, tight, all_of_them, policy()) == []
    # What one of the plans loads has been counted.
    (load,) = tight.loads
    loads = tight.model_copy(update={"actions": (load.model_copy(update={"model": "queued"}),)})
    assert [m.name for m in fitting(loads, wide, all_of_them, policy())] == ["unloaded"]
    assert [m.name for m in fitting(NOTHING, wide, all_of_them, policy())] == ["unloaded", "queued"]
    (load,) = wide.loads
    other = wide.model_copy(update={"actions": (load.model_copy(update={"model": "queued"}),)})
    assert [m.name for m in fitting(tight, other, all_of_them, policy())] == ["unloaded"]
