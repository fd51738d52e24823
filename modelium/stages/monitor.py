"""Monitor: look at runtimes and devices, and make the store agree with what runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from modelium.errors import ModeliumError
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Deployment, Fleet, MeasuredLoad, Model, Report, RuntimeName
from modelium.ports import Running, Steps
from modelium.stages import measurement
from modelium.stages.inline import direct
from modelium.stages.runtime_monitor import Sight
from modelium.stages.services import Services
from modelium.stages.snapshot import inventory, with_traffic
from modelium.traffic import TrafficBook

logger = logging.getLogger(__name__)

SETTLE_S = 30.0
"""A model may be missing from a runtime's list for this long after it became ready, as long as
it answers."""


async def monitor(services: Services, *, steps: Steps = direct) -> Report:
    """Look, reconcile, and keep what was seen.

    A model that the runtime lost is queued to be loaded again; one that a runtime holds but the
    store does not want is unloaded, unless orchestration or the runtime is disabled.
    """
    fleet, changed = await look(services, steps=steps)
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


async def look(services: Services, *, steps: Steps = direct) -> tuple[Fleet, list[str]]:
    """Do what `monitor` does; return the fleet as it is then, and what was changed."""
    fleet = await inventory(services)
    sights = await steps("look", _look, services, fleet)
    changed = await steps("reconcile", _reconcile, services, fleet, sights)
    if changed:
        fleet = await inventory(services)
    await steps("measure", _measure, services, fleet, sights)
    fleet = await with_traffic(services, await inventory(services, devices=fleet.devices))
    services.telemetry.observe(fleet)
    return fleet, changed


async def _look(services: Services, fleet: Fleet) -> Mapping[RuntimeName, Sight]:
    handles: dict[RuntimeName, dict[str, Mapping[str, object]]] = {}
    for model in fleet.models:
        if model.deployment:
            handles.setdefault(model.deployment.runtime, {})[model.name] = model.deployment.handle
    sights = await services.observer.look(handles)
    await asyncio.to_thread(_count, services.switchboard.traffic, fleet, sights)
    return sights


def _count(traffic: TrafficBook, fleet: Fleet, sights: Mapping[RuntimeName, Sight]) -> None:
    """Take in what the engines counted by themselves."""
    for model in fleet.models:
        deployment = model.deployment
        sight = sights.get(deployment.runtime) if deployment else None
        stats = sight.stats.get(model.name) if sight else None
        if stats and deployment and deployment.ready_at is not None:
            traffic.on_engine_look(model.name, since=deployment.ready_at, stats=stats)
        elif deployment is None:
            traffic.on_engine_gone(model.name)


async def _reconcile(
    services: Services, fleet: Fleet, sights: Mapping[RuntimeName, Sight]
) -> list[str]:
    changed: list[str] = []
    held = {
        (name, running.model): running
        for name, sight in sights.items()
        for running in sight.running or ()
    }
    for model in fleet.models:
        deployment = model.deployment
        if deployment is None or model.state is not ModelState.READY:
            continue
        sight = sights.get(deployment.runtime)
        if sight is None or sight.running is None:
            continue
        running = held.get((deployment.runtime, model.name))
        if running is None and _gone(services, fleet, model):
            changed.append(await _lost(services, model, "the runtime no longer has it"))
        elif running is not None and running.state == "unhealthy":
            changed.append(await _lost(services, model, running.detail or "unhealthy"))
        elif running is not None and running.upstream not in (None, deployment.upstream):
            await _moved(services, deployment, running)
    for (name, model_name), running in held.items():
        known = fleet.models_by_name.get(model_name)
        if known and known.state in SETTLED and _acting(services, name):
            changed.append(await _unwanted(services, name, running))
    return changed


def _gone(services: Services, fleet: Fleet, model: Model) -> bool:
    """Whether to believe a runtime that does not list ``model``: a list may lag behind a load."""
    settled = fleet.at - model.state_since > SETTLE_S
    return settled or services.switchboard.is_suspect(model.name)


def _acting(services: Services, runtime: RuntimeName) -> bool:
    return services.policy.enabled and services.policy.rules(runtime).enabled


async def _lost(services: Services, model: Model, why: str) -> str:
    """READY → QUEUED: it was lost through no fault of its own and is to come back."""
    services.switchboard.close(model.name)
    deployment = model.deployment
    if deployment is not None:
        try:
            await services.runtimes[deployment.runtime].unload(
                model.name, handle=deployment.handle, grace_s=0.0
            )
        except ModeliumError as exc:
            logger.warning("%s: what is left of it could not be cleared: %s", model.name, exc)
    await services.store.requeue(model.name, reason=f"to be loaded again: {why}")
    services.telemetry.on_lost(model.name)
    await services.store.events.append("model.lost", model=model.name, reason=why)
    return f"{model.name} lost ({why})"


async def _moved(services: Services, deployment: Deployment, running: Running) -> None:
    fresh = deployment.model_copy(
        update={"upstream": running.upstream, "handle": running.handle or deployment.handle}
    )
    await services.store.mark_moved(fresh)
    if running.upstream:
        services.switchboard.open(deployment.model, running.upstream, version=deployment.version)


async def _unwanted(services: Services, runtime: RuntimeName, running: Running) -> str:
    # Another run may have placed it meanwhile; the store is asked again before acting.
    record = await services.store.model(running.model)
    if record.state not in SETTLED:
        return f"{running.model} is on its way"
    await services.runtimes[runtime].unload(
        running.model, handle=running.handle, grace_s=services.config.gateway.drain_grace_seconds
    )
    return f"{running.model} cleared from {runtime.value}"


async def _measure(services: Services, fleet: Fleet, sights: Mapping[RuntimeName, Sight]) -> None:
    moved, loads = await asyncio.to_thread(_measurements, fleet, sights)
    if moved or loads:
        await services.store.history.record_memory(moved, loads)


def _measurements(
    fleet: Fleet, sights: Mapping[RuntimeName, Sight]
) -> tuple[dict[measurement.Place, int], dict[str, MeasuredLoad]]:
    resident = measurement.resident_bytes(fleet, sights)
    moved = measurement.changed(fleet, resident)
    return moved, measurement.fresh_loads(fleet, resident, moved)
