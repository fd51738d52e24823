"""Builds actions, and names the rules that a plan of them breaks."""

from __future__ import annotations

from typing import Any

from modelium.models import (
    GIB,
    Action,
    Fleet,
    Load,
    LoadSettings,
    Plan,
    RuntimeName,
    Trigger,
    Unload,
)
from modelium.policy import Policy, validate
from tests.fakes.fleets import NOW, policy


def load(name: str, *devices: str, gib: float = 10, **given: Any) -> Load:
    devices = devices or ("n/g0",)
    fields: dict[str, Any] = {
        "runtime": RuntimeName.VLLM,
        "settings": LoadSettings(tensor_parallel_size=len(devices)),
        "reserve": dict.fromkeys(devices, int(gib * GIB)),
        "reason": "because",
    }
    return Load(model=name, devices=devices, **{**fields, **given})


def broken(
    fleet: Fleet,
    *actions: Action,
    by: Policy | None = None,
    trigger: Trigger = Trigger.DEMAND,
    subject: str | None = None,
) -> list[str]:
    plan = Plan(author="llm", trigger=trigger, subject=subject, actions=actions)
    return [v.rule for v in validate(plan, fleet, by or policy(), now=NOW)]


def unload(name: str, **given: Any) -> Unload:
    return Unload(model=name, reason="because", **given)


def messages(fleet: Fleet, *actions: Action, by: Policy | None = None) -> list[str]:
    plan = Plan(author="llm", trigger=Trigger.SWEEP, actions=actions)
    return [v.message for v in validate(plan, fleet, by or policy(), now=NOW)]
