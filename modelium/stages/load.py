"""Load: start one model in its runtime, in the memory that is booked for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from modelium.errors import (
    DeadlineExceeded,
    FailureKind,
    LoadFailed,
    ModeliumError,
    TransientError,
)
from modelium.lifecycle import ModelState
from modelium.models import Deployment, LoadSettings, Model, Preference, Report, Trigger
from modelium.models.load_time import load_bound_s
from modelium.policy.backoff import FIRST_PAUSE_S
from modelium.policy.memory_budget import available_bytes
from modelium.ports import Loaded, LoadRequest, Steps
from modelium.stages import switching
from modelium.stages.failures import record_failure
from modelium.stages.inline import inline_steps
from modelium.stages.load_phases import Phases
from modelium.stages.memory_deltas import free_bytes, taken
from modelium.stages.opening import open_model
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot

logger = logging.getLogger(__name__)

MEMORY_WAIT_S = 60.0
"""For memory that an eviction releases; drivers return it within seconds."""

POLL_S = 0.25
"""Between two checks of a model that another run loads, or of memory to be released."""


async def load(
    services: Services, *, model: str, decision: str | None = None, steps: Steps = inline_steps
) -> Report:
    """Load ``model``; joins a load in progress, confirms one that is done.

    Args:
        services: the ports and the store.
        model: its name.
        decision: id of the accepted plan that books its memory; ``None``: an operator asks, so
            it is decided first.
        steps: how steps are run.

    Raises:
        LoadFailed: the runtime refused it; it is not retried before ``retry_at``.
    """
    record = await services.store.model(model)
    if decision is None:
        if record.state is ModelState.READY:
            return _report(record, "ready", "it is already loaded")
        if record.state is ModelState.LOADING:
            return await steps("join the load in progress", _join, services, model)
        decided = await services.launcher.decide(
            model=model, trigger=Trigger.OPERATOR, carry_out=False
        )
        if decided.outcome != "load" or decided.decision is None:
            return decided.model_copy(update={"stage": "load"})
        decision = decided.decision
        return await _start(services, model, decision, steps, evict=True)
    elif record.state is not ModelState.LOADING:
        why = "the decision is no longer in force"
        await services.store.decisions.abandon(decision, detail=why)
        return _report(record, record.state.value, why)
    return await _start(services, model, decision, steps)


async def _start(
    services: Services, model: str, decision: str, steps: Steps, *, evict: bool = False
) -> Report:
    """Load ``model``; ``evict``: carry out the evictions of the decision first."""
    services.switchboard.close(model)
    began = services.clock.monotonic()
    try:
        if evict:
            await _evict(services, decision)
        if not await steps("wait for memory", _memory, services, model):
            return await _requeue(
                services,
                model,
                decision,
                "the memory that was to be released for it did not become free",
            )
        if (await services.store.model(model)).removal is not None:
            return await _requeue(services, model, decision, "it is being removed")
        if (await services.store.model(model)).outdated:
            return await _requeue(
                services,
                model,
                decision,
                "a newer version was registered before this one was loaded",
            )
        loaded = await steps("load in the runtime", _load, services, model)
    except BaseException as exc:
        await asyncio.shield(_give_up(services, model, decision, exc, began))
        raise
    return await steps("open", _open, services, model, decision, loaded, began)


async def _evict(services: Services, decision: str) -> None:
    plan = (await services.store.decisions.get(decision)).plan
    leaving = [action.model for action in plan.unloads]
    if leaving:
        await services.launcher.evict(models=leaving, decision=decision)


async def _memory(services: Services, model: str) -> bool:
    """Wait until the bytes booked for ``model`` are free; False when they do not become free."""
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
            not any(b.releasing for b in others[device])
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
    deployment, profile = record.deployment, record.profile
    if deployment is None or profile is None:
        raise ModeliumError(f"{model} has no deployment or profile; load it again")

    if not await asyncio.to_thread(Path(record.path).exists):
        raise LoadFailed(
            f"the folder of {model}, {record.path}, is missing: put it back, or drop it again",
            kind=FailureKind.BAD_FILES,
        )
    phases = Phases(
        clock=services.clock, on_end=partial(services.telemetry.on_load_phase, deployment.runtime)
    )

    def progress(phase: str, share: float | None) -> None:
        logger.info("%s: %s%s", model, phase, "" if share is None else f" {share:.0%}")
        phases.begin(phase)

    request = LoadRequest(
        model=deployment.name,
        version=record.version,
        path=record.path,
        profile=profile,
        settings=deployment.settings,
        devices=tuple(fleet.devices_by_id[d] for d in deployment.devices),
        reserve={b.device: b.bytes for b in fleet.bookings if b.model == model},
        operator_settings=services.policy.model_settings.get(model, {}),
        deadline_s=load_bound_s(record, deployment.runtime),
        allow_remote_code=services.policy.allow_remote_code or "remote-code" in record.approvals,
    )
    await services.store.events.append(
        "model.loading",
        model=model,
        runtime=deployment.runtime.value,
        devices=[device.label for device in request.devices],
    )
    with phases, services.activity.on(deployment.devices) as activity:
        before = await free_bytes(services.devices, deployment.devices)
        loaded = await services.runtimes[deployment.runtime].load(request, progress=progress)
        after = await free_bytes(services.devices, deployment.devices) if before else {}
    if activity.alone and (held := taken(deployment, request.reserve, before, after)):
        await services.store.history.record_memory(held, {})
    return loaded


async def _open(
    services: Services, model: str, decision: str, loaded: Loaded, began: float
) -> Report:
    record = await services.store.model(model)
    if record.deployment is None:
        raise ModeliumError(
            f"{model} has no deployment any more; it was changed while it was loading"
        )
    if record.state is ModelState.READY:
        return _report(record, "ready", record.reason)
    seconds = services.clock.monotonic() - began
    reduced = loaded.settings and _reduction(record.deployment.settings, loaded.settings)
    deployment = record.deployment.model_copy(
        update={
            "settings": loaded.settings or record.deployment.settings,
            "upstream": loaded.upstream,
            "handle": loaded.handle,
            "ready_at": services.clock.time(),
            "load_s": seconds,
        }
    )
    await services.store.decisions.finish(decision, outcome="done")
    record = await services.store.mark_ready(
        model,
        deployment,
        note=f"with {reduced}, as more did not start" if reduced else "",
        preference=_kept(record, deployment) if reduced else None,
    )
    open_model(services, record, deployment)
    services.telemetry.on_load_finished(deployment.runtime, seconds=seconds, outcome="ready")
    await services.store.events.append(
        "model.ready",
        model=record.twin_of or model,
        version=deployment.version,
        runtime=deployment.runtime.value,
        devices=await _labels(services, deployment.devices),
        load_s=round(seconds, 3),
        **({"reduced": reduced} if reduced else {}),
    )
    if record.twin_of is not None:
        await switching.complete(services, record)
    elif record.outdated:  # a newer version was registered while this one was loading
        services.launcher.start(services.launcher.analyze(model=model))
    return _report(record, "ready", record.reason)


def _reduction(planned: LoadSettings, effective: LoadSettings) -> str:
    """Return what the driver changed in the ``planned`` settings, as text."""
    names = [
        name
        for name in ("max_model_len", "max_num_seqs", "kv_cache_bytes")
        if getattr(planned, name) != getattr(effective, name)
    ]
    return ", ".join(f"{name} {getattr(effective, name)}" for name in names)


def _kept(record: Model, deployment: Deployment) -> Preference:
    """Return the preference that starts the next load from what worked."""
    settings = LoadSettings()
    if record.preference and record.preference.runtime in (None, deployment.runtime):
        settings = record.preference.settings
    worked = {
        name: getattr(deployment.settings, name) for name in ("max_model_len", "max_num_seqs")
    }
    return Preference(runtime=deployment.runtime, settings=settings.model_copy(update=worked))


async def _labels(services: Services, ids: Sequence[str]) -> list[str]:
    devices = await asyncio.to_thread(services.devices.snapshot)
    return [device.label for device in devices if device.id in ids]


async def _requeue(services: Services, model: str, decision: str, reason: str) -> Report:
    record = await services.store.requeue(model, reason=reason)
    await services.store.decisions.finish(decision, outcome="failed", detail=reason)
    await services.store.events.append(
        "model.queued", model=model, reason=reason, decision=decision
    )
    return _report(record, "queued", reason)


async def _give_up(
    services: Services, model: str, decision: str, exc: BaseException, began: float
) -> None:
    """Release the bookings in the transaction that marks the load as failed or cancelled."""
    store = services.store
    record = await store.model(model)
    if record.state is not ModelState.LOADING or record.deployment is None:
        return
    cancelled = isinstance(exc, asyncio.CancelledError)
    reason = "the load was cancelled" if cancelled else str(exc) or type(exc).__name__
    await store.decisions.finish(decision, outcome="failed", detail=reason)
    if cancelled:
        await store.cancel_load(model, reason=reason)
        pause = FIRST_PAUSE_S
    else:
        pause = (await record_failure(services, record, exc)).pause_s(services.clock.time())
    services.telemetry.on_load_finished(
        record.deployment.runtime,
        seconds=services.clock.monotonic() - began,
        outcome="cancelled" if cancelled else "failed",
    )
    error = exc if isinstance(exc, ModeliumError) else TransientError(f"{model}: {reason}")
    services.switchboard.refuse(model, error, retry_after_s=pause)
    await store.events.append(
        "model.failed", model=record.twin_of or model, version=record.version, reason=reason
    )
    if isinstance(exc, LoadFailed):
        await switching.load_failed(services, record, exc)


async def _join(services: Services, model: str) -> Report:
    """Wait for a load in progress, for as long as a whole one may take."""
    began = services.clock.monotonic()
    while True:
        record = await services.store.model(model)
        if record.state is not ModelState.LOADING or record.deployment is None:
            return _report(record, record.state.value, record.reason)
        bound = load_bound_s(record, record.deployment.runtime)
        if services.clock.monotonic() - began > bound:
            break
        await services.clock.sleep(POLL_S)
    raise DeadlineExceeded(
        f"{model} is still loading; `modelium explain {model}` shows its progress"
    )


def _report(record: Model, outcome: str, reason: str) -> Report:
    deployment = record.deployment
    return Report(
        stage="load",
        outcome=outcome,
        model=record.name,
        runtime=deployment.runtime if deployment else None,
        devices=deployment.devices if deployment else (),
        reason=reason,
        details={"load_s": deployment.load_s} if deployment else {},
    )
