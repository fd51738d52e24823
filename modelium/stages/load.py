"""Load: start one model in its runtime, in the memory that is booked for it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import Any

from modelium.errors import (
    DeadlineExceeded,
    LoadFailed,
    ModeliumError,
    TransientError,
    Unavailable,
)
from modelium.lifecycle import ModelState
from modelium.models import Report, Trigger
from modelium.models.load_time import load_bound_s
from modelium.policy.backoff import FIRST_PAUSE_S
from modelium.policy.memory_budget import available_bytes
from modelium.ports import Loaded, Progress, Steps
from modelium.stages import abort, parts, switching
from modelium.stages.failures import record_failure
from modelium.stages.fetching import provide
from modelium.stages.inline import inline_steps
from modelium.stages.load_phases import Phases
from modelium.stages.load_request import load_request
from modelium.stages.loading import within_bound
from modelium.stages.locality import has_devices
from modelium.stages.memory_deltas import free_bytes, taken
from modelium.stages.ready import finish, load_report
from modelium.stages.services import Services
from modelium.stages.setups import failed_attempt
from modelium.stages.snapshot import snapshot
from modelium.stages.verification import verify

logger = logging.getLogger(__name__)

MEMORY_WAIT_S = 60.0
"""For memory that an eviction releases; drivers return it within seconds."""

POLL_S = 0.25
"""Between two checks of a model that another run loads, or of memory to be released."""


async def load(
    services: Services,
    *,
    model: str,
    decision: str | None = None,
    trigger: str = "operator",
    steps: Steps = inline_steps,
) -> Report:
    """Load ``model``; joins a load in progress, confirms one that is done.

    Args:
        services: the ports and the store.
        model: its name.
        decision: id of the accepted plan that books its memory; ``None``: somebody asks for
            it, so it is decided first.
        trigger: who asks, where it is decided first: ``operator``, or ``team``, whose quotas bind.
        steps: how steps are run.

    Raises:
        LoadFailed: the runtime refused it; it is not retried before ``retry_at``.
    """
    record = await services.store.model(model)
    if decision is None:
        if record.state is ModelState.READY:
            return load_report(record, "ready", "it is already loaded")
        if record.state is ModelState.LOADING:
            return await steps("join the load in progress", _join, services, model)
        decided = await services.launcher.decide(
            model=model, trigger=Trigger(trigger), carry_out=False
        )
        if decided.outcome != "load" or decided.decision is None:
            return decided.model_copy(update={"stage": "load"})
        decision = decided.decision
        if decided.details["node"] == services.node and has_devices(services, decided.devices[:1]):
            return await _abortable(services, model, decision, steps, evict=True)
        return await steps("wait for the node that loads it", _join, services, model)
    if record.state is not ModelState.LOADING:
        why = "the decision is no longer in force"
        await services.store.decisions.abandon(decision, detail=why)
        return load_report(record, record.state.value, why)
    return await _abortable(services, model, decision, steps)


async def _abortable(
    services: Services, model: str, decision: str, steps: Steps, *, evict: bool = False
) -> Report:
    work = _start(services, model, decision, steps, evict=evict)
    report = await services.loads.run(model, work)
    if report is not None:
        return report
    return load_report(await services.store.model(model), "cancelled", abort.REASON)


async def _start(
    services: Services, model: str, decision: str, steps: Steps, *, evict: bool = False
) -> Report:
    """Load ``model``; ``evict``: carry out the evictions of the decision first."""
    with services.owners.of(model):
        return await _carry_out(services, model, decision, steps, evict=evict)


async def _carry_out(
    services: Services, model: str, decision: str, steps: Steps, *, evict: bool
) -> Report:
    services.switchboard.close(model)
    began = services.clock.monotonic()
    try:
        if why := await _obstacle(services, model, decision, steps, evict=evict):
            return await _requeue(services, model, decision, why)
        loaded = await steps("load in the runtime", _load, services, model)
    except BaseException as exc:
        await asyncio.shield(_give_up_safely(services, model, decision, exc, began))
        raise
    seconds = services.clock.monotonic() - began
    return await steps("open", finish, services, model, decision, loaded, seconds=seconds)


async def _obstacle(
    services: Services, model: str, decision: str, steps: Steps, *, evict: bool
) -> str:
    """Have the memory released, and wait for it; return why ``model`` cannot be loaded now."""
    if evict:
        try:
            await _evict(services, decision)
        except Exception as exc:  # another model's failure, which this one is not to pay for
            return f"the memory that was to be released for it was not: {str(exc) or repr(exc)}"
    if not await steps("wait for memory", _memory, services, model, decision):
        return "the memory that was to be released for it did not become free"
    record = await services.store.model(model)
    if record.removal is not None:
        return "it is being removed"
    return "a newer version was registered before this one was loaded" if record.outdated else ""


async def _evict(services: Services, decision: str) -> None:
    plan = (await services.store.decisions.get(decision)).plan
    if leaving := [action.model for action in plan.unloads]:
        await services.launcher.evict(models=leaving, decision=decision)


async def _memory(services: Services, model: str, decision: str) -> bool:
    """Wait until the bytes booked for ``model`` are free; False when they do not become free.

    Only what ``decision`` evicts was promised to it; other evictions are other loads' memory.
    """
    plan = (await services.store.decisions.get(decision)).plan
    promised = frozenset(action.model for action in plan.unloads)
    deadline = services.clock.monotonic() + MEMORY_WAIT_S
    while True:
        fleet = await snapshot(services)
        if fleet.models_by_name[model].removal is not None:
            return True  # it will not be loaded
        own = {b.device: b.bytes for b in fleet.bookings if b.model == model}
        others = {
            device: tuple(b for b in fleet.bookings_by_device.get(device, ()) if b.model != model)
            for device in own
        }
        cap = services.policy.max_gpu_memory_utilization
        if all(
            not any(b.releasing and b.model in promised for b in others[device])
            and available_bytes(fleet.devices_by_id[device], others[device], cap=cap) >= held
            for device, held in own.items()
        ):
            return True
        if services.clock.monotonic() > deadline:
            return False
        await services.clock.sleep(POLL_S)


async def _load(services: Services, model: str) -> Loaded:
    fleet = await snapshot(services)
    record = fleet.models_by_name[model]
    deployment = record.deployment
    if deployment is None or record.profile is None:
        raise ModeliumError(f"{model} has no deployment or profile; load it again")

    path = await provide(services, record, _told(model))
    await verify(services, record)
    phases = Phases(
        clock=services.clock, on_end=partial(services.telemetry.on_load_phase, deployment.runtime)
    )

    tell = _told(model)

    def progress(phase: str, share: float | None) -> None:
        tell(phase, share)
        phases.begin(phase)

    runtime = services.runtimes.get(deployment.runtime)
    if runtime is None:
        raise Unavailable(f"{deployment.runtime.value} is switched off in the configuration")
    request = load_request(services, fleet, record, deployment, path)
    await services.store.events.append(
        "model.loading",
        model=model,
        runtime=deployment.runtime.value,
        devices=[device.label for device in request.devices],
    )
    await services.store.states.mark_moved(deployment.model_copy(update={"begun": True}))
    services.heartbeat.check(services.clock.monotonic())
    with phases, services.activity.on(deployment.devices) as activity:
        before = await free_bytes(services.devices, deployment.devices)
        if parts.is_split(deployment):
            loaded = await parts.load(
                services,
                deployment,
                lambda span: within_bound(runtime, replace(request, span=span), progress),
            )
        else:
            loaded = await within_bound(runtime, request, progress)
        after = await free_bytes(services.devices, deployment.devices) if before else {}
    if activity.alone and (held := taken(deployment, request.reserve, before, after)):
        await services.store.history.record_memory(held, {})
    return loaded


def _told(model: str) -> Progress:
    """Return what logs the progress of a load, each percent of a phase once."""
    last: list[str] = [""]

    def tell(phase: str, share: float | None) -> None:
        line = phase if share is None else f"{phase} {share:.0%}"
        if line != last[0]:
            logger.info("%s: %s", model, line)
        last[0] = line

    return tell


async def _requeue(services: Services, model: str, decision: str, reason: str) -> Report:
    record = await services.store.states.requeue(model, reason=reason)
    await services.store.decisions.finish(decision, outcome="failed", detail=reason)
    await services.store.events.append(
        "model.queued", model=model, reason=reason, decision=decision
    )
    return load_report(record, "queued", reason)


async def _give_up_safely(
    services: Services, model: str, decision: str, exc: BaseException, began: float
) -> None:
    """`_give_up`; what the store does not take now is the control loop's: it settles the model."""
    try:
        await _give_up(services, model, decision, exc, began)
    except Exception as failure:
        logger.warning("the end of the load of %s could not be stored: %s", model, failure)


async def _give_up(
    services: Services, model: str, decision: str, exc: BaseException, began: float
) -> None:
    """Release the bookings in the transaction that marks the load as failed or cancelled."""
    store = services.store
    record = await store.model(model)
    if record.state is not ModelState.LOADING or record.deployment is None:
        return
    if record.deployment.started_at != (await store.decisions.get(decision)).at:
        return  # a later load, of a model that was taken from this node while it was silent
    if parts.is_split(record.deployment):
        await parts.end(services, record.deployment, limit_s=parts.END_S)
    aborted = services.loads.is_aborted(model)
    cancelled = aborted or isinstance(exc, asyncio.CancelledError)
    reason, pause = str(exc) or type(exc).__name__, FIRST_PAUSE_S
    counted: dict[str, Any] = {}
    if aborted:
        reason = abort.REASON
        await abort.cancelled(services, model, reason=reason)
    elif cancelled:
        reason = "the load was cancelled"
        await store.states.cancel_load(model, reason=reason)
    else:
        verdict = await record_failure(services, record, exc)
        pause = verdict.pause_s(services.clock.time())
        counted = failed_attempt(services, record.deployment.runtime, verdict.setbacks.kind)
    services.telemetry.on_load_finished(
        record.deployment.runtime,
        seconds=services.clock.monotonic() - began,
        outcome="cancelled" if cancelled else "failed",
    )
    error: ModeliumError = TransientError(f"{model}: {reason}")
    if isinstance(exc, ModeliumError) and not aborted:
        error = exc
    services.switchboard.refuse(model, error, retry_after_s=pause)
    await store.decisions.finish(decision, outcome="failed", detail=reason)
    await store.events.append(
        "model.aborted" if cancelled else "model.failed",
        model=record.twin_of or model,
        version=record.version,
        reason=reason,
        **counted,
    )
    if isinstance(exc, LoadFailed) and not aborted:
        await switching.load_failed(services, record, exc)


async def _join(services: Services, model: str) -> Report:
    """Wait for a load in progress, for as long as a whole one may take."""
    began = services.clock.monotonic()
    while True:
        record = await services.store.model(model)
        if record.state is not ModelState.LOADING or record.deployment is None:
            return load_report(record, record.state.value, record.reason)
        bound = load_bound_s(record, record.deployment.runtime)
        if services.clock.monotonic() - began > bound:
            break
        await services.clock.sleep(POLL_S)
    raise DeadlineExceeded(
        f"{model} is still loading; `modelium explain {model}` shows its progress"
    )
