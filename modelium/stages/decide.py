"""Decide: what to do about one model, or about the whole fleet."""

from __future__ import annotations

from modelium.errors import InputError
from modelium.models import (
    Decision,
    Keep,
    Load,
    Plan,
    Queue,
    Reject,
    Report,
    RuntimeName,
    Trigger,
    Unload,
)
from modelium.ports import Steps
from modelium.stages.inline import inline_steps
from modelium.stages.locality import is_carried_out_here, is_placed_here, unloads_here
from modelium.stages.planning import asked, place
from modelium.stages.services import Services


async def decide(
    services: Services,
    *,
    model: str | None = None,
    trigger: str = "operator",
    plan: Plan | None = None,
    carry_out: bool = True,
    handed: bool = False,
    steps: Steps = inline_steps,
) -> Report:
    """Plan, have the plan validated and booked, and start what it says.

    Args:
        services: the ports and the store.
        model: the subject; ``None``: the whole fleet.
        trigger: a `Trigger` value.
        plan: made already on a recent snapshot; while the store has not changed since, it is
            validated and booked instead of planning anew.
        carry_out: ``False``: the caller carries the booked plan out.
        handed: the service gave ``plan`` or ``carry_out``, which only live in its memory.
        steps: how steps are run.

    Raises:
        PlanRejected: the policy forbids the plan; the refusal is recorded.
        StalePlan: others kept changing the fleet.
        InputError: a run whose plan was handed over is retried.
    """
    if handed and plan is None and carry_out:
        raise InputError("this decision was part of another run; start that run again instead")
    question = asked(services, Trigger(trigger), model)
    decision = await steps("plan and book", place, services, question, plan)
    if decision.outcome == "accepted":
        if not decision.plan.loads and not decision.plan.unloads:
            await services.store.decisions.finish(decision.id, outcome="done")
        elif carry_out and is_carried_out_here(services, decision):
            await steps("start", begin, services, decision)
    return report(decision, model)


async def begin(services: Services, decision: Decision) -> None:
    """Run the evictions on this node, then start each of its loads in a run of its own.

    What ``decision`` says for other nodes is begun by their loops. A load waits itself for the
    memory that it was promised, so an eviction that does not happen fails that load and never
    overbooks the device.
    """
    launcher, owners, plan = services.launcher, services.owners, decision.plan
    loads = [action for action in plan.loads if is_placed_here(services, action)]
    leaving = await unloads_here(services, plan)
    with owners.of(*leaving, *(action.model for action in loads)):
        try:
            if leaving:
                await launcher.evict(models=leaving, decision=decision.id)
        finally:
            for action in loads:
                run = launcher.load(model=action.model, decision=decision.id)
                launcher.start(owners.during(run, action.model))


def report(decision: Decision, model: str | None) -> Report:
    """Return what was decided, for people."""
    plan = decision.plan
    own = next((a for a in plan.actions if a.model == model), None)
    outcome = "nothing"
    runtime: RuntimeName | None = None
    devices: tuple[str, ...] = ()
    match own:
        case Load():
            outcome, runtime, devices = "load", own.runtime, own.devices
        case Unload():
            outcome = "unload"
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
        decision=decision.id,
        details={
            "node": decision.node,
            "author": plan.author,
            "fallback": plan.fallback,
            "trigger": plan.trigger.value,
            "actions": [a.model_dump(mode="json") for a in plan.actions],
            "candidates": [c.model_dump(mode="json") for c in plan.candidates],
            "departures": [d.model_dump(mode="json") for d in plan.departures],
            "page": decision.trace.get("page", []),
        },
    )
