"""Decide: what to do about one model, or about the whole fleet."""

from __future__ import annotations

from modelium.models import Decision, Keep, Load, Queue, Reject, Report, RuntimeName, Trigger
from modelium.ports import Question, Steps
from modelium.stages.inline import direct
from modelium.stages.planning import carry_out, place
from modelium.stages.services import Services


async def decide(
    services: Services,
    *,
    model: str | None = None,
    trigger: str = "operator",
    steps: Steps = direct,
) -> Report:
    """Plan, have the plan validated and booked, and set off what it says.

    Args:
        services: the ports and the store.
        model: the subject; ``None``: the whole fleet.
        trigger: a `Trigger` value.
        steps: how steps are run.
    """
    question = Question(trigger=Trigger(trigger), model=model, now=services.clock.time())
    decision = await steps("plan and book", place, services, question)
    if decision.outcome == "accepted":
        await steps("set off", carry_out, services, decision)
    return report(decision, model)


def report(decision: Decision, model: str | None) -> Report:
    """What was decided, for people."""
    plan = decision.plan
    own = next((a for a in plan.actions if a.model == model), None)
    outcome = "nothing"
    runtime: RuntimeName | None = None
    devices: tuple[str, ...] = ()
    match own:
        case Load():
            outcome, runtime, devices = "load", own.runtime, own.devices
        case Queue():
            outcome = "queued"
        case Reject():
            outcome = "rejected"
        case Keep():
            outcome = "keep"
        case _ if plan.actions:
            outcome = "planned"
    return Report(
        stage="decide",
        outcome=outcome,
        model=model,
        runtime=runtime,
        devices=devices,
        reason=own.reason if own else plan.reason,
        details={
            "decision": decision.id,
            "author": plan.author,
            "fallback": plan.fallback,
            "trigger": plan.trigger.value,
            "actions": [a.model_dump(mode="json") for a in plan.actions],
            "candidates": [c.model_dump(mode="json") for c in plan.candidates],
        },
    )
