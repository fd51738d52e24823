"""Asks the node that plans, and words its answers. The rows of the store are the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelium.errors import ModeliumError, StalePlan, TransientError, Unavailable
from modelium.models import Decision, Plan, Trigger, Violation
from modelium.policy import PlanRejected
from modelium.ports import Question
from modelium.stages.services import Services
from modelium.store import new_id
from modelium.store.documents import parsed

PATIENCE_S = 300.0
"""For an answer: another node may have to take over first, and an LLM may be asked."""


async def ask(services: Services, question: Question, plan: Plan | None) -> Decision:
    """Have the node that plans answer ``question``; it books its plan.

    Raises:
        PlanRejected: the policy forbids the plan.
        StalePlan: others kept changing the fleet.
        Unavailable: no node answered in time.
    """
    if question.model is not None:
        # What waits here is why it is asked for.
        seen = await asyncio.to_thread(services.switchboard.traffic.snapshot)
        mine = {name: one for name, one in seen.items() if name == question.model}
        await services.store.history.publish(mine)
    id, began = new_id(), services.clock.monotonic()
    document = {
        "trigger": question.trigger.value,
        "model": question.model,
        "unload_idle": question.unload_idle,
        "plan": None if plan is None else plan.model_dump(mode="json"),
    }
    await services.store.questions.ask(id, node=services.node, document=document)
    try:
        while True:
            answer = await services.store.questions.answered(id)
            if answer is not None:
                return _read(answer)
            if services.clock.monotonic() - began > PATIENCE_S:
                raise Unavailable(
                    "no node has answered what is to be done; `modelium nodes` shows which one "
                    "plans"
                )
            await services.pulse.wait(services.clock)
    finally:
        await asyncio.shield(services.store.questions.forget(id))


def asked(document: Mapping[str, Any], *, now: float) -> tuple[Question, Plan | None]:
    """Return what `ask` has stored."""
    question = Question(
        trigger=Trigger(document["trigger"]),
        model=document["model"],
        unload_idle=document["unload_idle"],
    )
    plan = document["plan"]
    return replace(question, now=now), None if plan is None else parsed(Plan, plan)


def decided(decision: Decision) -> dict[str, Any]:
    """Return the answer that holds ``decision``."""
    return {"decision": decision.model_dump(mode="json", exclude={"trace"})}


def failed(error: ModeliumError) -> dict[str, Any]:
    """Return the answer that holds ``error``."""
    violations = error.violations if isinstance(error, PlanRejected) else ()
    return {
        "error": str(error),
        "reason": error.reason,
        "transient": isinstance(error, TransientError),
        "violations": [violation.model_dump(mode="json") for violation in violations],
    }


def _read(answer: Mapping[str, Any]) -> Decision:
    if "decision" in answer:
        return parsed(Decision, answer["decision"])
    if violations := answer["violations"]:
        raise PlanRejected([parsed(Violation, one) for one in violations])
    if answer["reason"] == StalePlan.reason:
        raise StalePlan(answer["error"])
    error = (TransientError if answer["transient"] else ModeliumError)(answer["error"])
    error.reason = answer["reason"]
    raise error
