"""Evict: drain models and take them out of device memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from modelium.errors import InputError
from modelium.lifecycle import ModelState
from modelium.models import Decision, Load, Plan, Report, Trigger, Unload
from modelium.ports import Question, Steps
from modelium.stages.inline import direct
from modelium.stages.planning import place, place_plan
from modelium.stages.services import Services

logger = logging.getLogger(__name__)

CAUSES = {"makes room for": "space", "% full, over": "pressure", "idle for": "idle"}
"""Words of the planner's reasons → the cause that they tell; the first that is found stands."""


async def evict(
    services: Services,
    *,
    models: Sequence[str] | None = None,
    decision: str | None = None,
    reason: str = "",
    steps: Steps = direct,
) -> Report:
    """Unload ``models``, or sweep the fleet for what idles.

    Args:
        services: the ports and the store.
        models: names; ``None``: whatever the planner finds due.
        decision: the accepted plan that says so; ``None``: an operator asks, plan first.
        reason: why, where an operator asks.
        steps: how steps are run.

    Raises:
        PlanRejected: a model is pinned, always loaded, or busy.
        InputError: a model is being loaded.
    """
    leaving, coming = list(models or ()), []
    if models is None:
        if not services.policy.enabled:
            return Report(stage="evict", outcome="nothing", reason="orchestration is disabled")
        question = Question(trigger=Trigger.SWEEP, now=services.clock.time())
        made = await steps("sweep", place, services, question)
        accepted = made.plan.actions if made.outcome == "accepted" else ()
        leaving = [a.model for a in accepted if isinstance(a, Unload)]
        coming = [a.model for a in accepted if isinstance(a, Load)]
        decision = made.id
    elif decision is None:
        leaving = await _loaded(services, leaving)
        if leaving:
            made = await steps("check and book", _ask, services, leaving, reason)
            decision = made.id
    outcomes = await asyncio.gather(
        *(steps(f"unload {model}", _unload, services, model, decision) for model in leaving)
    )
    for model in coming:
        services.launcher.start(services.launcher.load(model=model, decision=decision))
    if decision is not None and not coming:
        stayed = [m for m, o in zip(leaving, outcomes, strict=True) if o != "unloaded"]
        detail = f"still busy: {', '.join(stayed)}" if stayed else ""
        await asyncio.to_thread(
            services.store.finish_decision,
            decision,
            outcome="failed" if stayed else "done",
            detail=detail,
        )
    return Report(
        stage="evict",
        outcome=outcomes[0] if len(outcomes) == 1 else "unloaded" if leaving else "nothing",
        model=leaving[0] if len(leaving) == 1 else None,
        reason=reason,
        details={
            "models": dict(zip(leaving, outcomes, strict=True)),
            "loads": coming,
            "decision": decision,
        },
    )


async def _loaded(services: Services, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that hold memory; what only waits in the queue leaves it here."""
    leaving = []
    for name in names:
        record = await asyncio.to_thread(services.store.model, name)
        if record.state is ModelState.LOADING:
            raise InputError(f"{name} is being loaded; cancel its run or wait until it is ready")
        if record.state is ModelState.QUEUED:
            await asyncio.to_thread(
                services.store.transition, name, ModelState.UNLOADED, reason="left the queue"
            )
        elif record.state in (ModelState.READY, ModelState.SLEEPING):
            leaving.append(name)
    return leaving


async def _ask(services: Services, models: Sequence[str], reason: str) -> Decision:
    why = reason or "an operator asked"
    plan = Plan(
        author="operator",
        trigger=Trigger.OPERATOR,
        subject=models[0] if len(models) == 1 else None,
        actions=tuple(Unload(model=name, reason=why) for name in models),
        reason=why,
    )
    return await place_plan(services, plan)


async def _unload(services: Services, model: str, decision: str | None) -> str:
    """Drain and unload one model whose eviction is booked: ``unloaded`` or ``busy``."""
    record = await asyncio.to_thread(services.store.model, model)
    if record.state not in (ModelState.DRAINING, ModelState.UNLOADING):
        return record.state.value
    deployment = record.deployment
    if deployment is None:
        raise InputError(f"{model} has no deployment to unload")
    services.switchboard.close(model)
    grace = services.config.gateway.drain_grace_seconds
    if record.state is ModelState.DRAINING:
        if not await services.switchboard.drained(model, timeout_s=grace):
            why = f"requests were still in flight after {grace:.0f} s"
            await asyncio.to_thread(services.store.keep_promise_off, model, reason=why)
            if deployment.upstream:
                services.switchboard.open(model, deployment.upstream, version=deployment.version)
            return "busy"
        await asyncio.to_thread(
            services.store.transition, model, ModelState.UNLOADING, reason=record.reason
        )
    await services.runtimes[deployment.runtime].unload(
        model, handle=deployment.handle, grace_s=grace
    )
    plan = None
    if decision is not None:
        plan = (await asyncio.to_thread(services.store.decision, decision)).plan
    now = services.clock.time()
    target, waits = ModelState.UNLOADED, {}
    if plan is not None and any(
        isinstance(a, Unload) and a.model == model and a.requeue for a in plan.actions
    ):
        target, waits = ModelState.QUEUED, {"queued_at": now}
    await asyncio.to_thread(
        services.store.released, model, target, reason=record.reason, evicted_at=now, **waits
    )
    services.telemetry.on_evicted(cause(plan.author if plan else "rules", record.reason))
    await asyncio.to_thread(
        services.store.event, "model.evicted", model=model, reason=record.reason
    )
    return "unloaded"


def cause(author: str, reason: str) -> str:
    """Why a model went, as a metric's label: one of few words, for reasons name models."""
    if author not in ("rules", "operator"):
        return "review"
    for words, label in CAUSES.items():
        if words in reason:
            return label
    return author
