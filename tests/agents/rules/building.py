"""Plan builders for tests of single steps of a plan."""

from __future__ import annotations

from typing import Any

from agents.rules.device_memory import DeviceMemory
from agents.rules.plan_builder import PlanBuilder
from agents.rules.sizing import Sizer
from modelium.models import Fleet, Trigger
from modelium.models.advice import RULES_ALONE
from modelium.policy import Policy
from modelium.ports import Question
from tests.fakes.fleets import NOW, estimate, policy


def builder(
    world: Fleet,
    by: Policy | None = None,
    *,
    trigger: Trigger = Trigger.SWEEP,
    about: str | None = None,
    values: dict[str, float] | None = None,
    **given: Any,
) -> PlanBuilder:
    """Return an empty plan about ``world``; models that are not in ``values`` are worth 1."""
    by, known = by or policy(), values or {}
    return PlanBuilder(
        question=Question(trigger=trigger, model=about, now=NOW),
        fleet=world,
        policy=by,
        now=NOW,
        memory=DeviceMemory(
            fleet=world, policy=by, now=NOW, value=lambda each: known.get(each.name, 1.0)
        ),
        **{"sizer": Sizer(estimate=estimate), "advice": RULES_ALONE, **given},
    )
