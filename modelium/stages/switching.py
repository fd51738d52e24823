"""Switching a loaded model to another version, without a refused request where both fit.

The other version is loaded as a twin (`modelium.store.twins`), takes over, and is on trial while
the one before stays loaded. The trial's end unloads the one before, or brings it back. Every step
starts from what the store says, so that a restart continues.
"""

from __future__ import annotations

import logging

from modelium.errors import FailureKind, IllegalTransition, LoadFailed
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Decision, EvictionCause, Fleet, Model, Plan, Report, Trigger
from modelium.models.base import twin_name
from modelium.policy.trial import Answers, TrialTerms, Verdict, verdict
from modelium.stages.evict import unload_plan
from modelium.stages.locality import answers_here
from modelium.stages.newcomers import examine
from modelium.stages.opening import routed
from modelium.stages.replacement import resume
from modelium.stages.services import Services
from modelium.store import new_id

logger = logging.getLogger(__name__)

LONGEST_NAME = 128
"""A longer twin's name does not fit the store's columns."""

ORPHAN_S = 300.0
"""After this time a twin that nothing is loaded of has been forgotten: by a run that failed."""

LEFT_S = 600.0
"""Between two tries to replace a loaded version: each may drain it."""

RETRY_S = 30.0
"""Before a switch that failed is continued."""

NOT_THE_VERSION = frozenset({FailureKind.KILLED, FailureKind.PORT, FailureKind.ENVIRONMENT})
"""Failures of a load that say nothing about the version."""


# --- beginning ------------------------------------------------------------------------------------


async def begin(services: Services, model: Model) -> str:
    """Load the current version of the ready ``model`` beside the one that is loaded.

    Returns:
        Empty where that goes on by itself now; else why both cannot be loaded.
    """
    _revision, models, _bookings = await services.store.view()
    for twin in models:
        if twin.twin_of == model.name:
            if twin.state is ModelState.READY:
                await complete(services, twin)  # where it is the current version
            return ""  # else its end begins this switch
    if len(twin_name(model.name, model.version)) > LONGEST_NAME:
        return "the name is too long for two versions at once"
    twin = await services.store.twins.stand_by(model.name)
    report = await services.launcher.decide(model=twin.name, trigger=Trigger.INGEST)
    if report.outcome == "load":
        return ""
    await services.store.twins.drop(twin.name)
    if report.outcome == "rejected":
        await _return(services, model, reason=report.reason)
        return ""
    return report.reason


async def complete(services: Services, twin: Model) -> None:
    """Let a twin that is ready serve, unless its model has moved on meanwhile."""
    store = services.store
    if twin.twin_of is None:
        return
    base = await store.model(twin.twin_of)
    if base.removal is not None or base.version != twin.version:
        return  # `conclude` unloads it
    before = base.deployment.version if base.deployment else None
    reason = f"version {twin.version} is loaded and serves now"
    if before is not None:
        reason += f"; version {before} stays loaded until it has answered its first requests"
    try:
        served = await store.twins.exchange(base.name, twin.name, reason=reason)
    except IllegalTransition:
        return  # it is on its way to another state; `conclude` tries again
    _route(services, served, before)
    await store.events.append("model.switched", model=base.name, version=twin.version, was=before)


def _route(services: Services, model: Model, before: int | None) -> None:
    """Send new requests to what ``model`` is served by now."""
    deployment = model.deployment
    if deployment is None or not answers_here(services, deployment):
        return  # `control.forwarding` does
    upstream = routed(model, deployment)
    if upstream is not None:
        aside = twin_name(model.name, before or 0)
        services.switchboard.switch(model.name, upstream, version=deployment.version, aside=aside)


# --- failing --------------------------------------------------------------------------------------


async def load_failed(services: Services, model: Model, error: LoadFailed) -> None:
    """Return to an earlier version where the failed load of ``model`` was that of a new one."""
    if error.kind in NOT_THE_VERSION or model.proven:
        return
    base = model
    if model.twin_of is not None:
        await services.store.twins.drop(model.name)
        base = await services.store.model(model.twin_of)
        if base.version != model.version:
            return
    await _return(services, base, reason=f"version {model.version} could not be loaded: {error}")


async def refused(services: Services, name: str, *, reason: str) -> bool:
    """Return to the loaded version where the current one turned out to be unusable.

    Returns whether there is one.
    """
    model = await services.store.model(name)
    if not model.outdated or model.state is not ModelState.READY:
        return False
    await _return(services, model, reason=reason)
    return True


async def _return(services: Services, model: Model, *, reason: str) -> None:
    """Make the loaded version of ``model``, else the newest proven one, the current one again."""
    target = await _earlier(services, model)
    if target is None:
        return
    await services.store.lineage.choose(model.name, target)
    await _note(services, model, target, reason)
    if model.deployment is None or model.deployment.version != target:
        examine(services, model.name)


async def _earlier(services: Services, model: Model) -> int | None:
    """Return the version to return to; ``None``: there is no other that works."""
    if model.deployment is not None and model.deployment.version != model.version:
        return model.deployment.version
    kept = await services.store.lineage.versions(model.name)
    proven = [v.version for v in kept if v.proven_at is not None and v.version != model.version]
    return max(proven, default=None)


async def _note(services: Services, model: Model, target: int, reason: str) -> None:
    """Record the return to an earlier version as a decision and an event."""
    now = services.clock.time()
    why = f"version {target} replaces version {model.version}: {reason}"
    plan = Plan(author="rules", trigger=Trigger.SWEEP, subject=model.name, reason=why)
    decision = Decision(
        id=new_id(), at=now, plan=plan, snapshot_digest="", outcome="done", finished_at=now
    )
    await services.store.decisions.record(decision)
    await services.store.events.append(
        "model.rolled-back",
        model=model.name,
        version=target,
        was=model.version,
        reason=reason,
        decision=decision.id,
    )
    services.switchboard.know(await services.store.versions())


# --- concluding -----------------------------------------------------------------------------------


async def conclude(services: Services, fleet: Fleet, *, at_start: bool = False) -> None:
    """Start what the switches of ``fleet`` need next; the control loop calls it at each tick.

    ``at_start``: no stage runs yet, so that whatever was on its way is forgotten.
    """
    for model in fleet.models:
        if model.twin_of is not None or model.removal is not None:
            continue
        if not _is_concluded_here(services, model):
            continue
        ready, alone = model.state is ModelState.READY, model.name not in fleet.twins
        left = alone and ready and model.outdated and model.name not in services.awaiting
        now = services.clock.monotonic()
        if left and (at_start or _nobody_is_at(services, model.name, now)):
            services.switching.postpone(model.name, now + LEFT_S)
            examine(services, model.name)
        elif (
            not alone
            or (ready and model.outdated and model.name in services.awaiting)
            or (ready and not model.outdated and not model.proven)
        ) and services.switching.is_due(model.name, services.clock.monotonic()):
            services.launcher.start(_guarded(services, model.name, at_start=at_start))


def _is_concluded_here(services: Services, model: Model) -> bool:
    """Whether this node's gateway has seen the answers of ``model``; else the planner's does it."""
    if model.deployment is None:
        return services.store.plans
    return answers_here(services, model.deployment)


def _nobody_is_at(services: Services, name: str, now: float) -> bool:
    """Whether what was to replace a loaded version has failed: a full disk, a locked store."""
    free = name not in services.examiners and services.turns.is_free(name)
    return free and services.switching.is_due(name, now)


async def _guarded(services: Services, name: str, *, at_start: bool) -> Report:
    try:
        return await services.switching.join(
            name, lambda: _conclude(services, name, at_start=at_start)
        )
    except Exception:
        services.switching.postpone(name, services.clock.monotonic() + RETRY_S)
        raise


async def _conclude(services: Services, name: str, *, at_start: bool) -> Report:
    base = await services.store.find(name)
    _revision, models, _bookings = await services.store.view()
    twin = next((model for model in models if model.twin_of == name), None)
    if base is not None and base.removal is None:
        if twin is None:
            await _try(services, base)
        elif twin.state in SETTLED:
            await _forget(services, base, twin, at_once=at_start)
        elif twin.state is ModelState.READY:
            await _settle(services, base, twin)
    return Report(stage="evict", outcome="nothing", model=name)


async def _forget(services: Services, base: Model, twin: Model, *, at_once: bool) -> None:
    """Drop a twin that nothing is loaded of, unless a run is at it, and begin again."""
    now = services.clock.time()
    retried = twin.retry_at is None or twin.retry_at <= now
    gone = twin.state is ModelState.FAILED and retried
    evicted = twin.state is ModelState.UNLOADED and twin.version != base.version
    if at_once or gone or evicted or now - twin.state_since > ORPHAN_S:
        await services.store.twins.drop(twin.name)
        if base.outdated and base.state is ModelState.READY:
            examine(services, base.name)


async def _settle(services: Services, base: Model, twin: Model) -> None:
    """End a switch of which both versions are loaded, once the trial says how."""
    if base.state is not ModelState.READY and base.state not in SETTLED:
        return
    deployed = base.deployment.version if base.deployment else None
    if twin.version == base.version and deployed != base.version:
        await complete(services, twin)
        return
    if base.outdated:  # yet another version is the current one by now, and waits for this end
        await _unload(services, base, twin)
        return
    broken = base.state in (ModelState.QUEUED, ModelState.FAILED) and not base.proven
    found = _verdict(services, base)
    if broken:
        await _back(services, base, twin, reason=f"it does not run any more: {base.reason}")
    elif base.state in SETTLED:  # somebody unloaded it
        await _unload(services, base, twin)
    elif found is Verdict.FAILED:
        await _back(services, base, twin, reason=_failures(services, base))
    elif found is Verdict.PASSED:
        await services.store.lineage.prove(base.name, base.version)
        await _unload(services, base, twin)


def _failures(services: Services, model: Model) -> str:
    answers = services.switchboard.answers(model.name)
    return f"{answers.failed} of its first {answers.total} requests failed"


async def _try(services: Services, base: Model) -> None:
    """Judge a version that serves with no other one loaded beside it, or have it replaced."""
    if base.state is ModelState.READY and base.outdated and base.name in services.awaiting:
        await resume(services, base)
    if base.state is not ModelState.READY or base.outdated or base.proven:
        return
    found = _verdict(services, base)
    if await _earlier(services, base) is None:
        found = Verdict.PASSED  # there is nothing to return to
    if found is Verdict.FAILED:
        await _return(services, base, reason=_failures(services, base))
    elif found is Verdict.PASSED:
        await services.store.lineage.prove(base.name, base.version)


def _verdict(services: Services, model: Model) -> Verdict:
    if model.proven:
        return Verdict.PASSED
    wanted = services.config.ingest
    terms = TrialTerms(
        requests=wanted.trial_requests,
        failures=wanted.trial_failures,
        seconds=wanted.trial_seconds,
    )
    answers = services.switchboard.answers(model.name)
    if answers.version != model.version:
        answers = Answers()
    return verdict(answers, terms, served_s=services.clock.time() - model.state_since)


async def _back(services: Services, base: Model, twin: Model, *, reason: str) -> None:
    """Let the version before, which is still loaded, serve again."""
    before = base.deployment.version if base.deployment else None
    why = f"version {twin.version} serves again: version {base.version} failed its trial ({reason})"
    served = await services.store.twins.exchange(base.name, twin.name, reason=why)
    _route(services, served, before)
    await _note(services, base, twin.version, f"it failed its trial: {reason}")


async def _unload(services: Services, base: Model, twin: Model) -> None:
    """Unload the version that serves no more, once its last requests have ended."""
    reason = f"version {base.version} has replaced it"
    plan = unload_plan([twin.name], cause=EvictionCause.REPLACED, reason=reason)
    await services.launcher.decide(model=twin.name, trigger=plan.trigger, plan=plan)
    if (await services.store.model(twin.name)).state in SETTLED:
        await services.store.twins.drop(twin.name)
        if base.outdated:
            examine(services, base.name)
    else:  # its last requests take long
        services.switching.postpone(base.name, services.clock.monotonic() + RETRY_S)
