"""Monitor: compare the store with what the runtimes run, and correct the differences."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from modelium.errors import ModeliumError
from modelium.lifecycle import ModelState
from modelium.models import Deployment, Fleet, MeasuredLoad, Model, Report, RuntimeName
from modelium.models.base import base_name
from modelium.models.runtimes import RUNTIMES
from modelium.policy import PlanRejected
from modelium.policy.backoff import is_healthy, lost_engine
from modelium.policy.cleanup_check import Cleanup
from modelium.ports import Running, Steps
from modelium.stages import measurement, parts
from modelium.stages.device_health import note_devices
from modelium.stages.failing import failure
from modelium.stages.failures import record_failure
from modelium.stages.gpu_shares import gpu_shares
from modelium.stages.inline import inline_steps
from modelium.stages.locality import own
from modelium.stages.opening import open_model
from modelium.stages.runtime_monitor import Observation, handles
from modelium.stages.services import Services
from modelium.stages.setups import attempt, failed_attempt
from modelium.stages.snapshot import inventory, with_traffic
from modelium.stages.unloading import CLEAR_S, call_unload, call_unload_of, violations
from modelium.traffic import TrafficBook

logger = logging.getLogger(__name__)

SETTLE_S = 30.0
"""For this long after it became ready, a model that answers may be missing from the runtime's
list."""


async def monitor(services: Services, *, steps: Steps = inline_steps) -> Report:
    """Reconcile, and store the measurements.

    A model that the runtime lost is queued to be loaded again. A model that a runtime holds
    although the store has it unloaded is unloaded, unless orchestration or the runtime is
    disabled; one that the store does not know only where this service started it.
    """
    fleet, changed = await reconcile(services, steps=steps)
    return Report(
        stage="monitor",
        outcome="changed" if changed else "steady",
        reason="; ".join(changed),
        details={
            "models": {m.name: m.state.value for m in fleet.models},
            "devices": {
                d.label: f"{(d.total_bytes - d.free_bytes) / d.total_bytes:.0%} used"
                for d in fleet.devices
                if d.total_bytes
            },
            "runtimes": {
                s.name.value: "up" if s.healthy else s.detail or "down" for s in fleet.runtimes
            },
        },
    )


async def reconcile(services: Services, *, steps: Steps = inline_steps) -> tuple[Fleet, list[str]]:
    """Do what `monitor` does; return the fleet afterwards, and what was changed."""
    fleet = await inventory(services)
    note_devices(services, fleet.devices)
    observations = await steps("observe", _observe, services, fleet)
    changed = await steps("reconcile", _correct, services, fleet, observations)
    if changed:
        fleet = await inventory(services)
    await steps("measure", _measure, services, fleet, observations)
    fleet = await with_traffic(services, await inventory(services, devices=fleet.devices))
    services.telemetry.observe(fleet)
    return fleet, changed


async def _observe(services: Services, fleet: Fleet) -> Mapping[RuntimeName, Observation]:
    here = own(services, fleet)
    observations = await services.runtime_monitor.observe(handles(here.models))
    await asyncio.to_thread(_count, services.switchboard.traffic, here, observations)
    return observations


def _count(
    traffic: TrafficBook, fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> None:
    """Add what the engines counted themselves."""
    for model in fleet.models:
        deployment = model.deployment
        observation = observations.get(deployment.runtime) if deployment else None
        if model.twin_of is not None:
            continue  # its last requests count as its model's
        stats = observation.stats.get(deployment.name) if observation and deployment else None
        if stats and deployment and deployment.ready_at is not None:
            traffic.on_engine_stats(model.name, loaded_at=deployment.ready_at, stats=stats)
        elif deployment is None:
            traffic.on_engine_gone(model.name)
    traffic.on_utilization(gpu_shares(fleet, observations))


async def _correct(
    services: Services, fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> list[str]:
    held = {
        (name, running.model): running
        for name, observation in observations.items()
        for running in observation.running or ()
    }
    corrections: list[tuple[str, Coroutine[Any, Any, str]]] = []
    lost: list[tuple[Model, Deployment, str]] = []
    here = own(services, fleet).models
    for model in here:
        deployment = model.deployment
        if deployment is None or model.state is not ModelState.READY:
            continue
        if model.failures and is_healthy(model, services.policy, now=fleet.at):
            corrections.append((model.name, _healthy(services, model)))
        running = held.get((deployment.runtime, deployment.name))
        observation = observations.get(deployment.runtime)
        why = _loss(services, fleet, model, deployment.runtime, observation, running)
        if not why and parts.is_split(deployment):
            why = parts.trouble(await services.store.parts.of(model.name), deployment)
        if why:
            lost.append((model, deployment, why))
        elif running is not None and model.removal is None and model.twin_of is None:
            corrections.append((model.name, _follow(services, model, deployment, running)))
    innocent = _innocent([model for model, _deployment, _why in lost])
    for model, deployment, why in lost:
        work = _lost(services, model, deployment, why, alone=model.name not in innocent)
        corrections.append((model.name, work))
    wanted = {(m.deployment.runtime, m.deployment.name) for m in here if m.deployment}
    if services.node:
        elsewhere = [part.deployment for part in await services.store.parts.on(services.node)]
        wanted |= {(deployment.runtime, deployment.name) for deployment in elsewhere}
    for (name, instance), running in held.items():
        # The store lacks what was loaded after the backup that it was restored from.
        ours = running.own or base_name(instance) in fleet.models_by_name
        if ours and (name, instance) not in wanted and _acting(services, name):
            corrections.append((instance, _unwanted(services, name, running)))
    ended = await asyncio.gather(*(_contained(name, work) for name, work in corrections))
    return [change for change in ended if change]


async def _contained(name: str, correction: Coroutine[Any, Any, str]) -> str:
    """Await the correction of one model; what fails is made again at the next tick."""
    try:
        return await correction
    except ModeliumError as exc:
        logger.warning("%s could not be corrected: %r", name, exc)
    except Exception:
        logger.exception("%s could not be corrected", name)
    return ""


async def _healthy(services: Services, model: Model) -> str:
    await services.store.states.mark_healthy(model.name)
    return ""


async def _follow(
    services: Services, model: Model, deployment: Deployment, running: Running
) -> str:
    """Send requests where a model is now, unless it fails them all; return what was changed."""
    if running.upstream not in (None, deployment.upstream):
        await _moved(services, model, deployment, running)
    elif services.switchboard.upstream(model.name) is None:
        await _reopen(services, model, deployment)
    elif problem := await failure(services, model, deployment):
        return await _lost(services, model, deployment, problem)
    return ""


async def _reopen(services: Services, model: Model, deployment: Deployment) -> None:
    """Open a ready model that its last run has left closed: at a restart, or when it broke off."""
    record = await services.store.find(model.name)
    if (
        record is not None
        and record.state is ModelState.READY
        and record.deployment == deployment
        and model.name not in services.owners
    ):
        open_model(services, record, deployment)


def _loss(
    services: Services,
    fleet: Fleet,
    model: Model,
    runtime: RuntimeName,
    observation: Observation | None,
    running: Running | None,
) -> str:
    """Return why a ready model is lost; empty where it is not, or its runtime does not answer."""
    if runtime not in services.runtimes:
        return f"{runtime.value} is switched off in the configuration"
    if observation is None or observation.running is None:
        if services.switchboard.is_suspect(model.name):
            # Held until the runtime answers: one that is reborn knows none of its models at first.
            services.switchboard.close(model.name)
        return ""
    if running is None:
        return "the runtime no longer has it" if _gone(services, fleet, model) else ""
    return (running.detail or "unhealthy") if running.state == "unhealthy" else ""


def _gone(services: Services, fleet: Fleet, model: Model) -> bool:
    """Whether a runtime that does not list ``model`` has lost it: a list may lag behind a load."""
    settled = fleet.at - model.state_since > SETTLE_S
    return settled or services.switchboard.is_suspect(model.name)


def _innocent(lost: Sequence[Model]) -> frozenset[str]:
    """Return those of ``lost`` that went with another model, whose process they shared.

    The one that was loaded last counts as the cause.
    """
    found: set[str] = set()
    for runtime in {m.deployment.runtime for m in lost if m.deployment}:
        if RUNTIMES[runtime].shares_process:
            here = [m for m in lost if m.deployment and m.deployment.runtime is runtime]
            found |= {m.name for m in sorted(here, key=_ready_at)[:-1]}
    return frozenset(found)


def _ready_at(model: Model) -> float:
    return (model.deployment.ready_at if model.deployment else None) or model.state_since


def _acting(services: Services, runtime: RuntimeName) -> bool:
    return services.policy.enabled and services.policy.rules(runtime).enabled


async def _lost(
    services: Services, model: Model, deployment: Deployment, why: str, *, alone: bool = True
) -> str:
    """READY → QUEUED: to be loaded again; soon after it was ready, that is a failure: → FAILED.

    No failure is what ended while the service was down.

    ``alone``: its engine ended by itself, so that no other model can be the cause.
    """
    known = await services.store.model(model.name)
    if known.deployment != deployment:
        return f"{model.name} has another deployment by now"
    cleanup = Cleanup(runtime=deployment.runtime, instance=deployment.name, cause="lost")
    if refused := await violations(services, cleanup):
        return refused[0].message
    if model.twin_of is None:
        services.switchboard.close(model.name)
    if deployment.runtime in services.runtimes:
        try:
            await call_unload(services, deployment, grace_s=0.0, limit_s=CLEAR_S, cause="lost")
        except PlanRejected as exc:
            return str(exc)
        except Exception as exc:  # a dead engine's runtime may be as sick
            logger.warning("%s could not be removed from the runtime: %r", model.name, exc)
    ended = lost_engine(known, why, services.policy, now=services.clock.time())
    # What was ready before this life of the service may have ended with the machine.
    if ended is not None and alone and _ready_at(known) >= services.began:
        await record_failure(services, known, ended)
        counted = failed_attempt(services, deployment.runtime, ended.kind)
    else:
        counted = attempt(services, deployment.runtime)
        await services.store.states.requeue(model.name, reason=f"to be loaded again: {why}")
    services.telemetry.on_lost(model.name)
    await services.store.events.append(
        "model.lost",
        model=base_name(model.name),
        version=deployment.version,
        reason=why,
        **counted,
    )
    return f"{model.name} lost ({why})"


async def _moved(
    services: Services, model: Model, deployment: Deployment, running: Running
) -> None:
    fresh = deployment.model_copy(
        update={"upstream": running.upstream, "handle": running.handle or deployment.handle}
    )
    if (await services.store.model(deployment.model)).deployment != deployment:
        return  # another version serves by now
    await services.store.states.mark_moved(fresh)
    open_model(services, model, fresh)


async def _unwanted(services: Services, runtime: RuntimeName, running: Running) -> str:
    # Another run may have placed it meanwhile: read the store again before acting.
    cleanup = Cleanup(runtime=runtime, instance=running.model, cause="leftover")
    grace_s = services.config.gateway.drain_grace_seconds
    try:
        await call_unload_of(services, cleanup, running.handle, grace_s=grace_s, limit_s=CLEAR_S)
    except PlanRejected as exc:
        return str(exc)
    return f"{running.model} cleared from {runtime.value}"


async def _measure(
    services: Services, fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> None:
    here = own(services, fleet)
    moved, loads = await asyncio.to_thread(_measurements, here, observations)
    if moved or loads:
        await services.store.history.record_memory(moved, loads)


def _measurements(
    fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> tuple[dict[measurement.Place, int], dict[str, MeasuredLoad]]:
    resident = measurement.resident_bytes(fleet, observations)
    moved = measurement.changed(fleet, resident)
    return moved, measurement.fresh_loads(fleet, resident, moved)
