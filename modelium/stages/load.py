"""Load: bring one model up in its runtime, in the memory that is booked for it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from modelium import analysis
from modelium.errors import DeadlineExceeded, ModeliumError, TransientError
from modelium.lifecycle import ModelState
from modelium.models import Deployment, Load, MeasuredLoad, Model, Report, Trigger
from modelium.policy.memory_budget import available_bytes
from modelium.ports import Loaded, LoadRequest, Question, Steps
from modelium.stages.decide import report as decided
from modelium.stages.inline import direct
from modelium.stages.load_phases import Phases
from modelium.stages.planning import place
from modelium.stages.services import Services
from modelium.stages.snapshot import snapshot

logger = logging.getLogger(__name__)

MEMORY_WAIT_S = 60.0
"""For memory that an eviction promised; drivers give it back within seconds."""

POLL_S = 0.25
"""Between two looks at a model that another run loads, or at promised memory."""

BACKOFF_S = 30.0
"""Pause before a failed load is tried again; doubles with each failure in a row."""

BACKOFF_LIMIT_S = 3600.0

JOIN_S = 1800.0
"""How long a second request for a load waits for the first: a load's own hard bound."""


async def load(
    services: Services, *, model: str, decision: str | None = None, steps: Steps = direct
) -> Report:
    """Load ``model``; joins a load that is under way, confirms one that is done.

    Args:
        services: the ports and the store.
        model: its name.
        decision: the accepted plan that books its memory; ``None``: an operator asks, plan first.
        steps: how steps are run.

    Raises:
        LoadFailed: the runtime refused it; it will not be tried again before ``retry_at``.
    """
    record = await asyncio.to_thread(services.store.model, model)
    if decision is None:
        if record.state is ModelState.READY:
            return _report(record, "ready", "it was loaded already")
        if record.state is ModelState.LOADING:
            return await steps("join the load under way", _join, services, model)
        question = Question(trigger=Trigger.OPERATOR, model=model, now=services.clock.time())
        made = await steps("plan and book", place, services, question)
        action = next(
            (a for a in made.plan.actions if isinstance(a, Load) and a.model == model), None
        )
        if action is None:
            return decided(made, model).model_copy(update={"stage": "load"})
        decision = made.id
        leaving = [a.model for a in made.plan.actions if a.action == "unload"]
        if leaving:
            await services.launcher.evict(models=leaving, decision=decision)
    elif record.state is not ModelState.LOADING:
        return _report(record, record.state.value, "nothing to load any more")
    return await _bring_up(services, model, decision, steps)


async def _bring_up(services: Services, model: str, decision: str, steps: Steps) -> Report:
    services.switchboard.close(model)
    began = services.clock.monotonic()
    try:
        if not await steps("wait for memory", _memory, services, model):
            return await _requeue(
                services, model, decision, "the memory that was promised to it did not become free"
            )
        if (await asyncio.to_thread(services.store.model, model)).outdated:
            return await _requeue(
                services, model, decision, "a newer version came before this one was loaded"
            )
        loaded = await steps("load in the runtime", _load, services, model)
    except BaseException as exc:
        await asyncio.shield(_give_up(services, model, decision, exc, began))
        raise
    return await steps("open", _open, services, model, decision, loaded, began)


async def _memory(services: Services, model: str) -> bool:
    """Whether the bytes that are booked for ``model`` are really there, once evictions are done."""
    deadline = services.clock.monotonic() + MEMORY_WAIT_S
    while True:
        fleet = await snapshot(services)
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
        raise ModeliumError(f"{model} has no deployment or profile; run decide for it again")

    phases = Phases(
        clock=services.clock, on_end=partial(services.telemetry.on_load_phase, deployment.runtime)
    )

    def progress(phase: str, share: float | None) -> None:
        logger.info("%s: %s%s", model, phase, "" if share is None else f" {share:.0%}")
        phases.begin(phase)

    request = LoadRequest(
        model=model,
        version=record.version,
        path=record.path,
        profile=profile,
        settings=deployment.settings,
        devices=tuple(fleet.devices_by_id[d] for d in deployment.devices),
        reserve={b.device: b.bytes for b in fleet.bookings if b.model == model},
        allow_remote_code=services.policy.allow_remote_code or "remote-code" in record.approvals,
    )
    with phases:
        return await services.runtimes[deployment.runtime].load(request, progress=progress)


async def _open(
    services: Services, model: str, decision: str, loaded: Loaded, began: float
) -> Report:
    record = await asyncio.to_thread(services.store.model, model)
    if record.deployment is None:
        raise ModeliumError(f"{model} lost its deployment while it was loading")
    if record.state is ModelState.READY:
        return _report(record, "ready", record.reason)
    seconds = services.clock.monotonic() - began
    deployment = record.deployment.model_copy(
        update={
            "upstream": loaded.upstream,
            "handle": loaded.handle,
            "ready_at": services.clock.time(),
            "load_s": seconds,
        }
    )
    await asyncio.to_thread(services.store.finish_decision, decision, outcome="done")
    record = await asyncio.to_thread(services.store.loaded, model, deployment)
    services.switchboard.open(model, loaded.upstream, version=deployment.version)
    services.telemetry.on_load_finished(deployment.runtime, seconds=seconds, outcome="ready")
    await asyncio.to_thread(
        services.store.event,
        "model.ready",
        model=model,
        runtime=deployment.runtime.value,
        load_s=round(seconds, 3),
    )
    if record.outdated:  # a newer version came while this one was loading
        services.launcher.start(services.launcher.analyze(model=model))
    return _report(record, "ready", record.reason)


async def _requeue(services: Services, model: str, decision: str, reason: str) -> Report:
    record = await asyncio.to_thread(
        services.store.released,
        model,
        ModelState.QUEUED,
        reason=reason,
        queued_at=services.clock.time(),
    )
    await asyncio.to_thread(
        services.store.finish_decision, decision, outcome="failed", detail=reason
    )
    await asyncio.to_thread(
        services.store.event, "model.queued", model=model, reason=reason, decision=decision
    )
    return _report(record, "queued", reason)


async def _give_up(
    services: Services, model: str, decision: str, exc: BaseException, began: float
) -> None:
    """Give the bookings back in the step that marks the load failed, or cancelled."""
    record = await asyncio.to_thread(services.store.model, model)
    if record.state is not ModelState.LOADING or record.deployment is None:
        return
    runtime = record.deployment.runtime
    cancelled = isinstance(exc, asyncio.CancelledError)
    failures = record.failures + (0 if cancelled else 1)
    pause = min(BACKOFF_LIMIT_S, BACKOFF_S * 2 ** max(0, failures - 1))
    reason = "the load was cancelled" if cancelled else str(exc) or type(exc).__name__
    await asyncio.to_thread(
        services.store.finish_decision, decision, outcome="failed", detail=reason
    )
    if record.preference is not None and not cancelled:
        # Whoever advised it, the next attempt is the rules' own.
        await asyncio.to_thread(services.store.forget_preference, model)
    await asyncio.to_thread(
        services.store.released,
        model,
        ModelState.UNLOADED if cancelled else ModelState.FAILED,
        reason=reason,
        failures=failures,
        retry_at=None if cancelled else services.clock.time() + pause,
    )
    seconds = services.clock.monotonic() - began
    services.telemetry.on_load_finished(
        runtime, seconds=seconds, outcome="cancelled" if cancelled else "failed"
    )
    error = exc if isinstance(exc, ModeliumError) else TransientError(f"{model}: {reason}")
    services.switchboard.refuse(model, error, retry_after_s=pause)
    await asyncio.to_thread(services.store.event, "model.failed", model=model, reason=reason)


async def _join(services: Services, model: str) -> Report:
    deadline = services.clock.monotonic() + JOIN_S
    while services.clock.monotonic() < deadline:
        record = await asyncio.to_thread(services.store.model, model)
        if record.state is not ModelState.LOADING:
            return _report(record, record.state.value, record.reason)
        await services.clock.sleep(POLL_S)
    raise DeadlineExceeded(f"{model} is still loading; `modelium explain {model}` says how far")


def measured(deployment: Deployment, *, device_kind: str, bytes_: int, at: float) -> MeasuredLoad:
    """What a load really took, keyed by what it depends on."""
    return MeasuredLoad(
        runtime=deployment.runtime,
        device_kind=device_kind,
        settings_digest=analysis.settings_digest(deployment.settings),
        per_device_bytes=bytes_,
        load_s=deployment.load_s or 0.0,
        at=at,
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
