"""From a question to a booked plan: snapshot, plan, validate, book; again when it is stale."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelium.errors import NotPlanner, StalePlan
from modelium.lifecycle import ModelState
from modelium.models import (
    Decision,
    Fleet,
    Keep,
    Plan,
    Queue,
    Reject,
    Report,
    Trigger,
    Violation,
)
from modelium.models.advice import ADVISED, Advice
from modelium.policy import PlanRejected, Policy, validate
from modelium.ports import Question
from modelium.stages import decision_record
from modelium.stages.asking import ask
from modelium.stages.services import Services
from modelium.stages.silence import relieve
from modelium.stages.snapshot import digest, snapshot, with_history
from modelium.stages.trace_page import page
from modelium.store import new_id
from modelium.store.basis import Basis

logger = logging.getLogger(__name__)

STALE_ATTEMPTS = 12
"""Plans in a row that others may overtake; a plan takes milliseconds, so this is a busy second."""

ADVISED_ATTEMPTS = 2
"""Plans of an advisor that may be overtaken or refused in a row; then the rules decide alone."""


async def sweep(services: Services, fleet: Fleet, trigger: Trigger) -> Report:
    """Plan for the whole ``fleet``, read a moment ago; a recorded decision where something is due.

    ``trigger``: `Trigger.SWEEP`, or `Trigger.UPKEEP`, which unloads no idle models.
    """
    plan = await services.brain.decide(asked(services, trigger), fleet, services.policy)
    if trigger is Trigger.SWEEP:
        services.sweeps.note(services.clock.monotonic())
    if not effective(plan, fleet):
        return Report(stage="decide", outcome="nothing", reason=plan.reason)
    plan = plan.model_copy(update={"revision": fleet.revision, "at": fleet.at})
    return await services.launcher.decide(trigger=trigger, plan=plan)


def asked(services: Services, trigger: Trigger, model: str | None = None) -> Question:
    """Return the question that ``trigger`` asks now, about ``model`` or the whole fleet."""
    # A sweep is asked for by the schedule, which is not paused then, or by an operator.
    kept = trigger is Trigger.REVIEW and services.sweeps.paused_since is not None
    return Question(trigger=trigger, model=model, now=services.clock.time(), unload_idle=not kept)


async def place(services: Services, question: Question, plan: Plan | None = None) -> Decision:
    """Have the brain of the node that plans answer ``question``, and book its plan.

    Raises: see `place_here`, `modelium.stages.asking`.
    """
    if services.store.plans:
        try:
            return await place_here(services, question, plan)
        except NotPlanner as exc:
            logger.info("%s", exc)
    return await ask(services, question, plan)


async def place_here(services: Services, question: Question, plan: Plan | None = None) -> Decision:
    """Have the brain answer ``question``, and book its plan.

    ``plan``: the answer, where it is known already. An operator's own plan stands whatever
    changes. Another one is made anew when the store or the traffic of its models has changed, or
    when the policy forbids it by now. One that follows advice is made anew as well, at last
    without the advice.

    Raises:
        PlanRejected: the policy forbids the plan; the refusal is recorded.
        StalePlan: others kept changing the fleet.
        NotPlanner: another node plans by now.
    """
    began = services.clock.monotonic()
    advice, trace = (None, {}) if plan is not None else await _advice(services, question)
    handed = plan if plan is not None and plan.author != OPERATOR else None
    for attempt in range(STALE_ATTEMPTS):
        async with services.planning:
            fleet = await _fleet(services, question)
            # A reload replaces it, and makes the store's revision that of a later snapshot.
            policy = services.policy
            if plan is None or _is_stale(plan, fleet):
                # Advice takes seconds; what it is applied to is the fleet of now.
                now = replace(question, now=services.clock.time())
                plan = await services.brain.decide(now, fleet, policy, advice)
            services.telemetry.on_decision(
                author=plan.author,
                trigger=plan.trigger.value,
                seconds=services.clock.monotonic() - began,
                fallback=plan.fallback,
            )
            began = services.clock.monotonic()
            advised = advice is not None and plan.author == advice.author
            final = plan is not handed and not advised
            try:
                return await _accept(services, plan, fleet, policy, trace, final=final)
            except StalePlan as exc:
                if advised and attempt + 1 >= ADVISED_ATTEMPTS:
                    advice = Advice(fallback=f"stale-advice: {exc}")
        pause = random.uniform(0.0, 0.05) * (attempt + 1)  # noqa: S311 - no secret
        await services.clock.sleep(pause)
        plan = plan if plan.author == OPERATOR else None
        handed = None
    raise StalePlan("the fleet kept changing while plans were made; try again")


async def _fleet(services: Services, question: Question) -> Fleet:
    """Return the fleet of now; what is asked for on a silent node is queued again before."""
    fleet = await snapshot(services)
    wanted = fleet.models_by_name.get(question.model or "")
    if wanted is None or question.trigger is not Trigger.DEMAND:
        return fleet
    return await snapshot(services) if await relieve(services, fleet, (wanted,)) else fleet


OPERATOR = "operator"
"""Author of the plans that operators make themselves."""


def effective(plan: Plan, fleet: Fleet) -> bool:
    """Whether ``plan`` changes anything: keeping does not, nor queueing what is queued.

    A departure from the rules does, also one that leaves everything as it is.
    """
    if plan.departures:
        return True
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


def _is_stale(plan: Plan, fleet: Fleet) -> bool:
    """Whether the store, or the traffic of a model that ``plan`` acts on, has changed since."""
    if plan.author == OPERATOR:
        return False
    acted_on = {action.model for action in plan.actions}
    return plan.revision != fleet.revision or any(
        model.traffic.in_flight or (model.traffic.last_request_at or 0.0) > plan.at
        for model in fleet.models
        if model.name in acted_on
    )


async def _advice(services: Services, question: Question) -> tuple[Advice | None, dict[str, Any]]:
    """Ask the LLM about ``question`` where there is time for it: its advice, and the record."""
    if question.trigger not in ADVISED:
        return None, {}
    fleet = await with_history(services, await snapshot(services))
    advice = await services.brain.advise(question, fleet, services.policy)
    if advice is None or not advice.trace:
        return advice, {}
    packed = await asyncio.to_thread(decision_record.pack, question, fleet, services.policy)
    return advice, {**advice.trace, "snapshot": packed}


async def _accept(
    services: Services,
    plan: Plan,
    fleet: Fleet,
    policy: Policy,
    trace: Mapping[str, Any],
    *,
    final: bool,
) -> Decision:
    """Validate ``plan`` against ``fleet`` and book it.

    Raises:
        PlanRejected: the policy forbids it; the refusal is recorded.
        StalePlan: the store has changed since ``fleet`` was read, or the policy forbids a plan
            that is not ``final``.
    """
    plan = plan.model_copy(update={"revision": fleet.revision})
    if trace:
        trace = {**trace, "page": page(plan, trace)}
    fleet_digest, violations = await asyncio.to_thread(
        _judge, plan, fleet, policy, services.clock.time()
    )
    if violations and not final:
        raise StalePlan(f"the plan is not allowed: {violations[0].message}")
    if violations:
        decision = _ended(services, plan, fleet_digest, trace, violations=tuple(violations))
        await _record_refusal(services, decision)
        raise PlanRejected(violations)
    if not effective(plan, fleet):
        decision = _ended(services, plan, fleet_digest, trace)
        # Requests ask again every few seconds while a model is on its way: not worth a record.
        # What an LLM was asked is recorded in any case.
        if trace or (plan.subject is not None and plan.trigger is not Trigger.DEMAND):
            await services.store.decisions.record(decision)
        return decision
    basis = Basis.of(plan, fleet) if services.node else None
    decision = await services.store.accept(
        plan, snapshot_digest=fleet_digest, trace=trace, basis=basis
    )
    await _record_waiting(services, decision, fleet)
    return decision


def _judge(plan: Plan, fleet: Fleet, policy: Policy, now: float) -> tuple[str, list[Violation]]:
    """Return the digest of what ``plan`` was made on, and the rules that it breaks."""
    return digest(fleet), validate(plan, fleet, policy, now=now)


def _ended(
    services: Services,
    plan: Plan,
    fleet_digest: str,
    trace: Mapping[str, Any],
    *,
    violations: tuple[Violation, ...] = (),
) -> Decision:
    """Return a decision that books nothing: refused, or without effect."""
    now = services.clock.time()
    return Decision(
        id=new_id(),
        at=now,
        node=services.node,
        plan=plan,
        snapshot_digest=fleet_digest,
        violations=violations,
        outcome="refused" if violations else "done",
        finished_at=now,
        trace=dict(trace),
    )


async def _record_refusal(services: Services, decision: Decision) -> None:
    violations, plan = decision.violations, decision.plan
    services.telemetry.on_plan_refused(v.rule for v in violations)
    await services.store.decisions.record(decision)
    await services.store.events.append(
        "plan.refused",
        model=plan.subject,
        about=violations[0].subject,
        rule=violations[0].rule,
        reason="; ".join(v.message for v in violations),
        author=plan.author,
        trigger=plan.trigger.value,
        decision=decision.id,
    )


async def _record_waiting(services: Services, decision: Decision, fleet: Fleet) -> None:
    """Append an event for each model that the plan queued or rejected."""
    for action in decision.plan.actions:
        known = fleet.models_by_name.get(action.model)
        if isinstance(action, Reject):
            kind = "model.failed"
        elif isinstance(action, Queue) and (known is None or known.state is not ModelState.QUEUED):
            kind = "model.queued"
        else:
            continue
        await services.store.events.append(
            kind, model=action.model, reason=action.reason, decision=decision.id
        )
