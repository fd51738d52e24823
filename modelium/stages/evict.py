"""Evict: drain models and take them out of device memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from modelium.errors import InputError, ModeliumError
from modelium.lifecycle import LEAVING, SETTLED, ModelState
from modelium.models import Deployment, EvictionCause, Model, Plan, Report, Trigger, Unload
from modelium.ports import Steps
from modelium.stages import memory_deltas
from modelium.stages.abort import abort
from modelium.stages.inline import inline_steps
from modelium.stages.locality import is_here, unloads_here
from modelium.stages.opening import open_model
from modelium.stages.planning import OPERATOR, sweep
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot
from modelium.stages.unloading import UNLOAD_S, call_unload

POLL_S = 0.25
"""Between two looks at a model that another run unloads."""


async def evict(
    services: Services,
    *,
    models: Sequence[str] | None = None,
    decision: str | None = None,
    reason: str = "",
    steps: Steps = inline_steps,
) -> Report:
    """Unload what a decision says, what an operator names, or what the sweep finds due.

    Args:
        services: the ports and the store.
        models: an operator's; each is unloaded once the policy has allowed it. With a
            decision: those that it unloads, for the record.
        decision: id of the accepted plan to carry out; its loads are the caller's.
        reason: the operator's, for the record.
        steps: how steps are run.

    With neither, the whole fleet is swept, idle models included.

    Raises:
        PlanRejected: a model is pinned, always loaded, or busy.
        ModeliumError: the load of a model cannot be aborted.
    """
    if decision is not None:
        return await _carry_out(services, decision, reason, steps)
    if models is None:
        return await _sweep(services)
    aborted = await _abort(services, models)
    joined = await _joined(services, models, steps)
    leaving = await _loaded(services, models)
    # Theirs before the plan is booked: the loop would take them for another node's orders.
    with services.owners.of(*leaving):
        decision = await _decide(services, leaving, reason) if leaving else None
        if decision is not None:
            return await _carry_out(services, decision, reason, steps)
    if ended := dict.fromkeys(aborted, "aborted") | joined:
        return _report_ended(ended, reason)
    return Report(stage="evict", outcome="nothing", reason=reason, details={"models": {}})


async def _carry_out(services: Services, decision: str, reason: str, steps: Steps) -> Report:
    plan = (await services.store.decisions.get(decision)).plan
    leaving = plan.unloads
    here = await unloads_here(services, plan)
    with services.owners.of(*here):
        outcomes = await _all(services, leaving, here, steps)
    by_model = {a.model: outcome for a, outcome in zip(leaving, outcomes, strict=True)}
    busy = [model for model, outcome in by_model.items() if outcome != "unloaded"]
    if busy:
        detail = f"still busy: {', '.join(busy)}"
        await services.store.decisions.finish(decision, outcome="failed", detail=detail)
    elif not plan.loads:  # else the last load finishes it
        await services.store.decisions.finish(decision, outcome="done")
    return Report(
        stage="evict",
        outcome=outcomes[0] if len(outcomes) == 1 else "unloaded" if leaving else "nothing",
        model=leaving[0].model if len(leaving) == 1 else None,
        reason=reason or (leaving[0].reason if len(leaving) == 1 else plan.reason),
        decision=decision,
        details={"models": by_model},
    )


async def _sweep(services: Services) -> Report:
    if not services.policy.enabled:
        return Report(stage="evict", outcome="nothing", reason="orchestration is disabled")
    report = await sweep(services, await snapshot(services), Trigger.SWEEP)
    return report.model_copy(update={"stage": "evict"})


async def _abort(services: Services, names: Sequence[str]) -> list[str]:
    """Abort the loads of those of ``names`` that are being loaded, and return them."""
    loading = [
        name for name in names if (await services.store.model(name)).state is ModelState.LOADING
    ]
    await asyncio.gather(*(abort(services, name) for name in loading))
    for name in loading:
        if not is_here(services, (await services.store.model(name)).deployment):
            await _left(services, name)
    return loading


async def _joined(services: Services, names: Sequence[str], steps: Steps) -> dict[str, str]:
    """Wait for the evictions of ``names`` that go on already; one that nobody is at is continued.

    Returns model → how it ended.

    Raises:
        ModeliumError: a runtime does not unload its model; the control loop goes on with it.
    """
    ended = {}
    for name in names:
        record = await services.store.model(name)
        if record.state not in LEAVING:
            continue
        if name not in services.owners and is_here(services, record.deployment):
            action = Unload(model=name, reason=record.reason)
            with services.owners.of(name):
                ended[name] = await steps(f"unload {name}", unload, services, action)
            continue
        ended[name] = await _left(services, name)
    return ended


async def _left(services: Services, name: str) -> str:
    """Wait for an eviction that another run, or another node, is at: ``unloaded`` or ``busy``.

    Raises:
        ModeliumError: it takes too long; the control loop of its node goes on with it.
    """
    bound = services.clock.monotonic() + services.config.gateway.drain_grace_seconds + UNLOAD_S
    while (record := await services.store.model(name)).state in LEAVING:
        if services.clock.monotonic() > bound:
            raise ModeliumError(f"{name} is still {record.state}: {record.reason}")
        await services.pulse.wait(services.clock, limit_s=POLL_S)
    return "unloaded" if record.state in SETTLED else "busy"


def _report_ended(ended: Mapping[str, str], reason: str) -> Report:
    outcomes = set(ended.values())
    if outcomes == {"aborted"}:
        reason = f"the load of {', '.join(ended)} was aborted"
    return Report(
        stage="evict",
        outcome="busy"
        if "busy" in outcomes
        else "unloaded"
        if "unloaded" in outcomes
        else "aborted",
        model=next(iter(ended)) if len(ended) == 1 else None,
        reason=reason,
        details={"models": dict(ended)},
    )


async def _loaded(services: Services, names: Sequence[str]) -> list[str]:
    """Return those of ``names`` that hold memory; the others are not loaded by themselves."""
    leaving = []
    for name in names:
        record = await services.store.model(name)
        if record.state is ModelState.QUEUED:
            await services.store.states.leave_queue(
                name, reason="an operator took it off the queue"
            )
        elif record.state is ModelState.FAILED and record.retry_at is not None:
            await services.store.states.leave_queue(name, reason="an operator ended its attempts")
        elif record.state in (ModelState.READY, ModelState.SLEEPING):
            leaving.append(name)
    return leaving


async def _decide(services: Services, models: Sequence[str], reason: str) -> str | None:
    """Have the operator's wish validated and booked; return the decision's id."""
    plan = unload_plan(models, cause=EvictionCause.OPERATOR, reason=reason or "an operator asked")
    report = await services.launcher.decide(
        model=plan.subject, trigger=plan.trigger, plan=plan, carry_out=False
    )
    return report.decision


def unload_plan(
    models: Sequence[str], *, cause: EvictionCause, reason: str, requeue: bool = False
) -> Plan:
    """Return a plan, in the operator's name, that unloads ``models`` and nothing else.

    ``requeue``: they wait to be loaded again afterwards.
    """
    return Plan(
        author=OPERATOR,
        trigger=Trigger.OPERATOR,
        subject=models[0] if len(models) == 1 else None,
        actions=tuple(
            Unload(model=name, cause=cause, reason=reason, requeue=requeue) for name in models
        ),
        reason=reason,
    )


async def _all(
    services: Services, leaving: Sequence[Unload], here: Collection[str], steps: Steps
) -> list[str]:
    """Unload each, and wait for those of other nodes; one that fails delays no other.

    It is raised at the end. What is left of it is settled by the control loop of its node.
    """
    ended = await asyncio.gather(
        *(
            steps(f"unload {action.model}", unload, services, action)
            if action.model in here
            else _left(services, action.model)
            for action in leaving
        ),
        return_exceptions=True,
    )
    for outcome in ended:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in ended if isinstance(outcome, str)]


async def unload(services: Services, action: Unload) -> str:
    """Drain and unload one model whose eviction is booked: ``unloaded`` or ``busy``."""
    model, store = action.model, services.store
    record = await store.model(model)
    if record.state not in LEAVING:
        return record.state.value
    deployment = record.deployment
    if deployment is None:
        raise InputError(f"{model} has no deployment to unload")
    services.switchboard.close(model)
    idle = await _idle(services, record) if action.cause is EvictionCause.IDLE else {}
    grace = services.config.gateway.drain_grace_seconds
    if record.state is ModelState.DRAINING:
        drained = await services.switchboard.drained(model, timeout_s=grace)
        # A model that is being removed does not come back for those that take too long.
        if not drained and (await store.model(model)).removal is None:
            why = f"requests were still in flight after {grace:.0f} s"
            await store.states.cancel_eviction(model, reason=why)
            open_model(services, record, deployment)
            return "busy"
        await store.states.start_unloading(model, reason=record.reason)
    await _release(services, deployment, grace)
    await released(services, record, action, **idle)
    return "unloaded"


async def released(services: Services, record: Model, action: Unload, **noted: float) -> None:
    """Note that the runtime has given back what ``record`` held; ``noted``: for the event."""
    model, store = action.model, services.store
    if action.requeue:
        await store.states.requeue(model, reason=record.reason, evicted=True)
    else:
        await store.states.release(model, reason=record.reason, evicted=True)
    services.telemetry.on_evicted(action.cause.value)
    await store.events.append(
        "model.evicted",
        model=record.twin_of or model,
        version=record.deployment.version if record.deployment else record.version,
        reason=record.reason,
        **noted,
    )


async def _idle(services: Services, record: Model) -> dict[str, float]:
    """Return how long the model idled, for the record."""
    traffic = await asyncio.to_thread(services.switchboard.traffic.snapshot)
    known = record.model_copy(update={"traffic": traffic.get(record.name, record.traffic)})
    return {"idle_s": round(known.idle_s(services.clock.time()))}


async def _release(services: Services, deployment: Deployment, grace_s: float) -> None:
    """Unload from the runtime, and say what memory did not come back.

    It is the runtime's from now on: the GPU reports it as used, and no model is charged for it.
    """
    _revision, _models, booked = await services.store.view()
    held = [b for b in booked if b.model == deployment.model]
    with services.activity.on(deployment.devices) as activity:
        before = await memory_deltas.free_bytes(services.devices, deployment.devices)
        await call_unload(services, deployment, grace_s=grace_s)
        after = await memory_deltas.free_bytes(services.devices, before) if before else {}
    if not activity.alone:
        return
    for device, bytes_ in memory_deltas.kept(held, before, after).items():
        await services.store.events.append(
            "memory.kept",
            model=deployment.model,
            runtime=deployment.runtime.value,
            device=device,
            bytes=bytes_,
        )
