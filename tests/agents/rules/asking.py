"""Asks the planner about small fleets; every answer passes the policy."""

from __future__ import annotations

from typing import Any

from agents.rules.planner import RulePlanner
from modelium.models import (
    Fleet,
    Model,
    Plan,
    Traffic,
    Trigger,
)
from modelium.policy import Policy, validate
from modelium.ports import Question
from tests.fakes.fleets import NOW, estimate, loaded, policy

PLANNER = RulePlanner(estimate=estimate)


def ask(world: Fleet, trigger: Trigger, about: str | None = None, by: Policy | None = None) -> Plan:
    by = by or policy()
    plan = PLANNER.plan(Question(trigger=trigger, model=about, now=NOW), world, by)
    assert validate(plan, world, by, now=NOW) == []
    return plan


def shape(plan: Plan) -> list[tuple[str, str]]:
    return [(action.action, action.model) for action in plan.actions]


def traffic(idle_s: float, rate: float) -> Traffic:
    return Traffic(
        first_request_at=NOW - 90_000,
        last_request_at=NOW - idle_s,
        rates=(rate,) * 4,
        qps_last_hour=rate,
    )


def crowded(**given: Any) -> tuple[Model, Model]:
    return (
        loaded("rare", "n/g0", gib=60, traffic=traffic(3000, 0.0001), **given),
        loaded("hot", "n/g1", gib=60, traffic=traffic(5, 1.0), **given),
    )
