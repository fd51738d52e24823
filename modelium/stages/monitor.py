"""Monitor: look at runtimes and devices, and make the store agree with what runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from modelium.analysis import settings_digest
from modelium.errors import ModeliumError
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Deployment, Fleet, MeasuredLoad, Model, Report, RuntimeName
from modelium.ports import Running, Steps
from modelium.stages.inline import direct
from modelium.stages.load import measured
from modelium.stages.runtime_monitor import Sight
from modelium.stages.services import Services
from modelium.stages.snapshot import inventory, with_traffic
from modelium.traffic import TrafficBook

logger = logging.getLogger(__name__)

SETTLE_S = 30.0
"""A model may be missing from a runtime's list for this long after it became ready, as long as
it answers."""

FRESH_S = 120.0
"""How long after a load its memory is measured, whether or not it moves: a few looks."""


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
    await steps("keep", _keep, services, fleet, sights)
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
            traffic.on_engine_stats(model.name, loaded_at=deployment.ready_at, stats=stats)
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
    await asyncio.to_thread(
        services.store.released,
        model.name,
        ModelState.QUEUED,
        reason=f"to be loaded again: {why}",
        queued_at=services.clock.time(),
    )
    services.telemetry.on_lost(model.name)
    await asyncio.to_thread(services.store.event, "model.lost", model=model.name, reason=why)
    return f"{model.name} lost ({why})"


async def _moved(services: Services, deployment: Deployment, running: Running) -> None:
    fresh = deployment.model_copy(
        update={"upstream": running.upstream, "handle": running.handle or deployment.handle}
    )
    await asyncio.to_thread(services.store.save_deployment, fresh)
    if running.upstream:
        services.switchboard.open(deployment.model, running.upstream, version=deployment.version)


async def _unwanted(services: Services, runtime: RuntimeName, running: Running) -> str:
    # Another run may have placed it meanwhile; the store is asked again before acting.
    record = await asyncio.to_thread(services.store.model, running.model)
    if record.state not in SETTLED:
        return f"{running.model} is on its way"
    await services.runtimes[runtime].unload(
        running.model, handle=running.handle, grace_s=services.config.gateway.drain_grace_seconds
    )
    return f"{running.model} cleared from {runtime.value}"


async def _keep(services: Services, fleet: Fleet, sights: Mapping[RuntimeName, Sight]) -> None:
    await asyncio.to_thread(_keep_memory, services, fleet, sights)


def _keep_memory(services: Services, fleet: Fleet, sights: Mapping[RuntimeName, Sight]) -> None:
    resident = _resident(fleet, sights)
    known = {(b.model, b.device): b.resident_bytes for b in fleet.bookings}
    moved = {place: held for place, held in resident.items() if known[place] != held}
    models = fleet.models_by_name
    # Memory that was full before the model was ready does not move any more.
    news = {
        (name, device): held
        for (name, device), held in resident.items()
        if (name, device) in moved or fleet.at - models[name].state_since < FRESH_S
    }
    loads = _measured(fleet, news, at=services.clock.time())
    if moved or loads:
        services.store.history.keep_memory(moved, loads)


def _measured(
    fleet: Fleet, news: Mapping[tuple[str, str], int], *, at: float
) -> dict[str, MeasuredLoad]:
    """What loads turned out to take, by model, where it is more than was known."""
    found = {}
    for name in {name for name, _device in news}:
        model = fleet.models_by_name[name]
        deployment = model.deployment
        if model.state is not ModelState.READY or deployment is None or not deployment.devices:
            continue
        most = max(news.get((model.name, device), 0) for device in deployment.devices)
        device = fleet.devices_by_id.get(deployment.devices[0])
        if device is None or not most:
            continue
        if any(
            m.per_device_bytes >= most
            and m.runtime == deployment.runtime
            and m.device_kind == device.name
            and m.settings_digest == settings_digest(deployment.settings)
            for m in model.measured
        ):
            continue
        found[model.name] = measured(deployment, device_kind=device.name, bytes_=most, at=at)
    return found


def _resident(fleet: Fleet, sights: Mapping[RuntimeName, Sight]) -> dict[tuple[str, str], int]:
    """Bytes per (model, device): by process on a GPU, as the runtime tells on a CPU."""
    running = {
        (name, one.model): one for name, sight in sights.items() for one in sight.running or ()
    }
    by_pid = {
        (device.id, process.pid): process.used_bytes
        for device in fleet.devices
        for process in device.processes
    }
    found: dict[tuple[str, str], int] = {}
    for booking in fleet.bookings:
        model = fleet.models_by_name.get(booking.model)
        device = fleet.devices_by_id.get(booking.device)
        if model is None or device is None or model.deployment is None:
            continue
        held_by = running.get((model.deployment.runtime, model.name))
        if held_by is None:
            continue
        if device.kind == "gpu":
            held = sum(by_pid.get((device.id, pid), 0) for pid in held_by.pids)
        else:
            stats = sights[model.deployment.runtime].stats.get(model.name)
            told = stats.resident_bytes if stats else None
            held = told if told is not None else sum(_rss(pid) for pid in held_by.pids)
        found[booking.model, booking.device] = held
    return found


def _rss(pid: int) -> int:
    """Resident bytes of a process; 0 when it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * 4096
