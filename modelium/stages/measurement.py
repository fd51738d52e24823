"""What loaded models really hold, against what was booked for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from modelium.analysis import settings_digest
from modelium.devices import processes
from modelium.lifecycle import ModelState
from modelium.models import Deployment, Device, Fleet, MeasuredLoad, RuntimeName
from modelium.stages.runtime_monitor import Observation

FRESH_S = 120.0
"""How long after a load its memory is measured, whether or not it changes: a few ticks."""

Place = tuple[str, str]
"""Model and device id."""


def changed(fleet: Fleet, resident: Mapping[Place, int]) -> dict[Place, int]:
    """Return those of ``resident`` (bytes) that differ from what the bookings say."""
    known = {(b.model, b.device): b.resident_bytes for b in fleet.bookings}
    return {place: held for place, held in resident.items() if known[place] != held}


def fresh_loads(
    fleet: Fleet, resident: Mapping[Place, int], moved: Mapping[Place, int]
) -> dict[str, MeasuredLoad]:
    """Return what loads turned out to take, by model, where it is more than was known."""
    models = fleet.models_by_name
    # Memory that was full before the model was ready does not change any more.
    news = {
        (name, device): held
        for (name, device), held in resident.items()
        if (name, device) in moved or fleet.at - models[name].state_since < FRESH_S
    }
    found = {}
    for name in {name for name, _device in news}:
        model = models[name]
        deployment = model.deployment
        if model.state is not ModelState.READY or deployment is None or not deployment.devices:
            continue
        most = max(news.get((name, device), 0) for device in deployment.devices)
        device = fleet.devices_by_id.get(deployment.devices[0])
        if device is None or not most:
            continue
        load = _measured(deployment, device_kind=device.name, bytes_=most, at=fleet.at)
        if not any(_is_same_load(load, m) and m.per_device_bytes >= most for m in model.measured):
            found[name] = load
    return found


def resident_bytes(
    fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> dict[Place, int]:
    """Return the bytes that each model holds: by process on a GPU, by the runtime on a CPU.

    Where the driver does not show a model's processes, it is left out, unless its own load has
    shown what it takes (`modelium.stages.memory_deltas`) and that is nobody else's either.
    """
    running = {
        (name, one.model): one
        for name, observation in observations.items()
        for one in observation.running or ()
    }
    found: dict[Place, int] = {}
    for booking in fleet.bookings:
        model = fleet.models_by_name.get(booking.model)
        device = fleet.devices_by_id.get(booking.device)
        if model is None or device is None or model.deployment is None:
            continue
        held_by = running.get((model.deployment.runtime, model.deployment.name))
        if held_by is None:
            continue
        if device.kind == "gpu":
            on_gpu = _of_processes(device, held_by.pids)
            if on_gpu is None and held_by.pids:
                on_gpu = booking.resident_bytes
            if on_gpu is None:
                continue
            held = on_gpu
        else:
            stats = observations[model.deployment.runtime].stats.get(model.deployment.name)
            told = stats.resident_bytes if stats else None
            held = told if told is not None else sum(map(processes.resident_bytes, held_by.pids))
        found[booking.model, booking.device] = held
    return found


def _of_processes(device: Device, pids: Collection[int]) -> int | None:
    """Return what ``pids`` hold on ``device``; ``None`` where the driver does not tell."""
    listed = [p.used_bytes for p in device.processes or () if p.pid in pids]
    if not listed or None in listed:
        return None
    return sum(held or 0 for held in listed)


def _measured(deployment: Deployment, *, device_kind: str, bytes_: int, at: float) -> MeasuredLoad:
    """Return what a load took, keyed by what that depends on; without what it need not have."""
    return MeasuredLoad(
        runtime=deployment.runtime,
        device_kind=device_kind,
        settings_digest=settings_digest(deployment.settings),
        per_device_bytes=max(1, bytes_ - deployment.settings.extra_kv_bytes),
        load_s=deployment.load_s or 0.0,
        at=at,
    )


def _is_same_load(one: MeasuredLoad, other: MeasuredLoad) -> bool:
    return (one.runtime, one.device_kind, one.settings_digest) == (
        other.runtime,
        other.device_kind,
        other.settings_digest,
    )
