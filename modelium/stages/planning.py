"""From a question to an accepted plan: snapshot, plan, validate, book; again when it is stale."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from modelium.errors import StalePlan
from modelium.lifecycle import ModelState
from modelium.models import (
    Decision,
    Fleet,
    Keep,
    Load,
    Plan,
    Queue,
    Reject,
    Trigger,
    Unload,
    Violation,
)
from modelium.models.advice import ADVISED, Advice
from modelium.policy import PlanRejected, Policy, validate
from modelium.ports import Question
from modelium.stages import decision_record
from modelium.stages.services import Services
from modelium.stages.snapshot import digest, snapshot, with_history
from modelium.store import new_id

STALE_ATTEMPTS = 12
"""Plans in a row that others may overtake; a plan takes milliseconds, so this is a busy second."""


async def place(services: Services, question: Question) -> Decision:
    """Have the brain answer ``question`` and book what it says.

    Raises:
        PlanRejected: the policy forbids the plan; the refusal is recorded.
        StalePlan: others kept changing the fleet.
    """
    began = services.clock.monotonic()
    advice, trace = await _advice(services, question)

    async def ask(fleet: Fleet) -> Plan:
        # Advice takes seconds; what it is applied to is the fleet of now.
        now = replace(question, now=services.clock.time())
        return await services.brain.decide(now, fleet, services.policy, advice)

    return await _accept(services, ask, trace=trace, began=began)


async def _advice(services: Services, question: Question) -> tuple[Advice | None, dict[str, Any]]:
    """Have ``question`` thought over where there is time for it: the advice, and its record."""
    if question.trigger not in ADVISED:
        return None, {}
    fleet = await with_history(services, await snapshot(services))
    advice = await services.brain.advise(question, fleet, services.policy)
    if advice is None or not advice.trace:
        return advice, {}
    kept = await asyncio.to_thread(decision_record.pack, question, fleet, services.policy)
    return advice, {**advice.trace, "snapshot": kept}


async def place_plan(services: Services, plan: Plan) -> Decision:
    """Book a plan that an operator made; raises as `place`."""

    async def given(_fleet: Fleet) -> Plan:
        return plan

    return await _accept(services, given, trace={}, began=services.clock.monotonic())


async def _accept(
    services: Services,
    ask: Callable[[Fleet], Awaitable[Plan]],
    *,
    trace: Mapping[str, Any],
    began: float,
) -> Decision:
    """Snapshot, plan, validate and book; again while others change the fleet meanwhile."""
    for attempt in range(STALE_ATTEMPTS):
        fleet = await snapshot(services)
        plan: Plan = await ask(fleet)
        services.telemetry.on_decision(
            author=plan.author,
            trigger=plan.trigger.value,
            seconds=services.clock.monotonic() - began,
            fallback=plan.fallback,
        )
        began = services.clock.monotonic()
        plan = plan.model_copy(update={"revision": fleet.revision})
        name, violations = await asyncio.to_thread(
            _judge, plan, fleet, services.policy, services.clock.time()
        )
        if violations:
            await asyncio.to_thread(
                _refuse, services, _refused(services, plan, name, violations, trace)
            )
            raise PlanRejected(violations)
        if not effective(plan, fleet):
            return await _kept(services, plan, name, trace)
        try:
            decision = await asyncio.to_thread(
                services.store.accept, plan, snapshot_digest=name, trace=trace
            )
        except StalePlan:
            pause = random.uniform(0.0, 0.05) * (attempt + 1)  # noqa: S311 - no secret
            await services.clock.sleep(pause)
        else:
            await asyncio.to_thread(_tell, services, decision, fleet)
            return decision
    raise StalePlan("the fleet kept changing while plans were made; try again")


def _judge(plan: Plan, fleet: Fleet, policy: Policy, now: float) -> tuple[str, list[Violation]]:
    """The name of what ``plan`` was made on, and what the policy has against it."""
    return digest(fleet), validate(plan, fleet, policy, now=now)


def _refuse(services: Services, decision: Decision) -> None:
    """Keep what the policy refused, and say so."""
    violations, plan = decision.violations, decision.plan
    services.telemetry.on_plan_refused(v.rule for v in violations)
    services.store.record_decision(decision)
    services.store.event(
        "plan.refused",
        model=plan.subject,
        about=violations[0].subject,
        rule=violations[0].rule,
        reason="; ".join(v.message for v in violations),
        author=plan.author,
        trigger=plan.trigger.value,
        decision=decision.id,
    )


def _tell(services: Services, decision: Decision, fleet: Fleet) -> None:
    """Say which models an accepted plan made wait, or gave up."""
    for action in decision.plan.actions:
        known = fleet.models_by_name.get(action.model)
        if isinstance(action, Reject):
            kind = "model.failed"
        elif isinstance(action, Queue) and (known is None or known.state is not ModelState.QUEUED):
            kind = "model.queued"
        else:
            continue
        services.store.event(kind, model=action.model, reason=action.reason, decision=decision.id)


def effective(plan: Plan, fleet: Fleet) -> bool:
    """Whether ``plan`` changes anything: keeping does not, nor queueing what is queued."""
    for action in plan.actions:
        match action:
            case Keep():
                continue
            case Queue():
                model = fleet.models_by_name.get(action.model)
                if model is None or model.state is not ModelState.QUEUED:
                    return True
            case _:
                return True
    return False


async def carry_out(services: Services, decision: Decision) -> None:
    """Do what was booked: evictions first, each load in a run of its own.

    A load waits itself for the memory that it was promised, so an eviction that comes to
    nothing ends in that load's failure, not in an overbooked device.
    """
    leaving = [action for action in decision.plan.actions if isinstance(action, Unload)]
    coming = [action for action in decision.plan.actions if isinstance(action, Load)]
    try:
        if leaving:
            await services.launcher.evict(
                models=[action.model for action in leaving], decision=decision.id
            )
    finally:
        for action in coming:
            services.launcher.start(
                services.launcher.load(model=action.model, decision=decision.id)
            )


def _refused(
    services: Services,
    plan: Plan,
    name: str,
    violations: list[Violation],
    trace: Mapping[str, Any],
) -> Decision:
    now = services.clock.time()
    return Decision(
        id=new_id(),
        at=now,
        plan=plan,
        snapshot_digest=name,
        violations=tuple(violations),
        outcome="refused",
        finished_at=now,
        trace=dict(trace),
    )


async def _kept(services: Services, plan: Plan, name: str, trace: Mapping[str, Any]) -> Decision:
    now = services.clock.time()
    decision = Decision(
        id=new_id(),
        at=now,
        plan=plan,
        snapshot_digest=name,
        outcome="done",
        finished_at=now,
        trace=dict(trace),
    )
    # Requests ask again every few seconds while a model is on its way: no news, no record.
    # What an LLM was asked is kept whatever came of it.
    if trace or (plan.subject is not None and plan.trigger is not Trigger.DEMAND):
        await asyncio.to_thread(services.store.record_decision, decision)
    return decision
