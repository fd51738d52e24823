"""Monitor: compare the store with what the runtimes run, and correct the differences."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from modelium.errors import ModeliumError
from modelium.lifecycle import ModelState
from modelium.models import Deployment, Fleet, MeasuredLoad, Model, Report, RuntimeName
from modelium.models.base import base_name
from modelium.models.runtimes import RUNTIMES
from modelium.policy.backoff import is_healthy, lost_engine
from modelium.ports import Running, Steps
from modelium.stages import measurement
from modelium.stages.failures import record_failure
from modelium.stages.inline import inline_steps
from modelium.stages.opening import open_model
from modelium.stages.runtime_monitor import Observation
from modelium.stages.services import Services
from modelium.stages.snapshot import inventory, with_traffic
from modelium.traffic import TrafficBook

logger = logging.getLogger(__name__)

SETTLE_S = 30.0
"""For this long after it became ready, a model that answers may be missing from the runtime's
list."""


async def monitor(services: Services, *, steps: Steps = inline_steps) -> Report:
    """Reconcile, and store the measurements.

    A model that the runtime lost is queued to be loaded again. A model that a runtime holds
    although the store has it unloaded is unloaded, unless orchestration or the runtime is
    disabled.
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
    observations = await steps("observe", _observe, services, fleet)
    changed = await steps("reconcile", _correct, services, fleet, observations)
    if changed:
        fleet = await inventory(services)
    await steps("measure", _measure, services, fleet, observations)
    fleet = await with_traffic(services, await inventory(services, devices=fleet.devices))
    services.telemetry.observe(fleet)
    return fleet, changed


async def _observe(services: Services, fleet: Fleet) -> Mapping[RuntimeName, Observation]:
    handles: dict[RuntimeName, dict[str, Mapping[str, object]]] = {}
    for model in fleet.models:
        if model.deployment:
            handles.setdefault(model.deployment.runtime, {})[model.deployment.name] = (
                model.deployment.handle
            )
    observations = await services.runtime_monitor.observe(handles)
    await asyncio.to_thread(_count, services.switchboard.traffic, fleet, observations)
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


async def _correct(
    services: Services, fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> list[str]:
    changed: list[str] = []
    held = {
        (name, running.model): running
        for name, observation in observations.items()
        for running in observation.running or ()
    }
    lost: list[tuple[Model, str]] = []
    for model in fleet.models:
        deployment = model.deployment
        if deployment is None or model.state is not ModelState.READY:
            continue
        if model.failures and is_healthy(model, services.policy, now=fleet.at):
            await services.store.mark_healthy(model.name)
        observation = observations.get(deployment.runtime)
        if observation is None or observation.running is None:
            continue
        running = held.get((deployment.runtime, deployment.name))
        if running is None and _gone(services, fleet, model):
            lost.append((model, "the runtime no longer has it"))
        elif running is not None and running.state == "unhealthy":
            lost.append((model, running.detail or "unhealthy"))
        elif model.removal is not None or model.twin_of is not None:
            continue
        elif running is not None and running.upstream not in (None, deployment.upstream):
            await _moved(services, model, deployment, running)
    innocent = _innocent([model for model, _why in lost])
    for model, why in lost:
        changed.append(await _lost(services, model, why, alone=model.name not in innocent))
    wanted = {(m.deployment.runtime, m.deployment.name) for m in fleet.models if m.deployment}
    for (name, instance), running in held.items():
        known = fleet.models_by_name.get(base_name(instance))
        if known and (name, instance) not in wanted and _acting(services, name):
            changed.append(await _unwanted(services, name, running))
    return changed


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


async def _lost(services: Services, model: Model, why: str, *, alone: bool = True) -> str:
    """READY → QUEUED: to be loaded again; soon after it was ready, that is a failure: → FAILED.

    ``alone``: its engine ended by itself, so that no other model can be the cause.
    """
    deployment = model.deployment
    known = await services.store.model(model.name)
    if known.deployment != deployment:
        return f"{model.name} has another deployment by now"
    if model.twin_of is None:
        services.switchboard.close(model.name)
    if deployment is not None:
        try:
            await services.runtimes[deployment.runtime].unload(
                deployment.name, handle=deployment.handle, grace_s=0.0
            )
        except ModeliumError as exc:
            logger.warning("%s could not be removed from the runtime: %s", model.name, exc)
    failure = lost_engine(known, why, services.policy, now=services.clock.time())
    if failure is not None and alone:
        await record_failure(services, known, failure)
    else:
        await services.store.requeue(model.name, reason=f"to be loaded again: {why}")
    services.telemetry.on_lost(model.name)
    await services.store.events.append("model.lost", model=base_name(model.name), reason=why)
    return f"{model.name} lost ({why})"


async def _moved(
    services: Services, model: Model, deployment: Deployment, running: Running
) -> None:
    fresh = deployment.model_copy(
        update={"upstream": running.upstream, "handle": running.handle or deployment.handle}
    )
    if (await services.store.model(deployment.model)).deployment != deployment:
        return  # another version serves by now
    await services.store.mark_moved(fresh)
    open_model(services, model, fresh)


async def _unwanted(services: Services, runtime: RuntimeName, running: Running) -> str:
    # Another run may have placed it meanwhile: read the store again before acting.
    _revision, models, _bookings = await services.store.view()
    if any(m.deployment and m.deployment.name == running.model for m in models):
        return f"{running.model} is being loaded"
    await services.runtimes[runtime].unload(
        running.model, handle=running.handle, grace_s=services.config.gateway.drain_grace_seconds
    )
    return f"{running.model} cleared from {runtime.value}"


async def _measure(
    services: Services, fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> None:
    moved, loads = await asyncio.to_thread(_measurements, fleet, observations)
    if moved or loads:
        await services.store.history.record_memory(moved, loads)


def _measurements(
    fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> tuple[dict[measurement.Place, int], dict[str, MeasuredLoad]]:
    resident = measurement.resident_bytes(fleet, observations)
    moved = measurement.changed(fleet, resident)
    return moved, measurement.fresh_loads(fleet, resident, moved)
