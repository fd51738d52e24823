"""How much of its GPUs' time each loaded model uses (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from modelium.models import Deployment, Device, Fleet, RuntimeName
from modelium.models.runtimes import RUNTIMES
from modelium.ports import Running
from modelium.stages.runtime_monitor import Observation


def gpu_shares(
    fleet: Fleet, observations: Mapping[RuntimeName, Observation]
) -> dict[str, float | None]:
    """Return model → share of time, 0 to 1, in which it used its GPUs: their mean.

    By process, where the driver tells; else a GPU's utilization is that of the only model and
    process on it. ``None``: on no GPU, or nobody can tell.
    """
    running = {
        (name, one.model): one
        for name, observation in observations.items()
        for one in observation.running or ()
    }
    found: dict[str, float | None] = {}
    for model in fleet.models:
        deployment = model.deployment
        if deployment is None or model.twin_of is not None:
            continue
        held = running.get((deployment.runtime, deployment.name))
        devices = [fleet.devices_by_id.get(device) for device in deployment.devices]
        shares = [_share(device, deployment, held, fleet) if device else None for device in devices]
        known = [share for share in shares if share is not None]
        whole = shares and len(known) == len(shares)
        found[model.name] = sum(known) / len(known) if whole else None
    return found


def _share(
    device: Device, deployment: Deployment, held: Running | None, fleet: Fleet
) -> float | None:
    """Return the share of ``device``'s time that goes to ``deployment``."""
    if device.kind != "gpu" or held is None:
        return None
    listed = device.processes or ()
    own = [process for process in listed if process.pid in held.pids]
    told = [process.utilization for process in own if process.utilization is not None]
    if own and len(told) == len(own) and not RUNTIMES[deployment.runtime].shares_process:
        return min(1.0, sum(told))
    beside = {b.model for b in fleet.bookings_by_device.get(device.id, ())} - {deployment.model}
    others = own and len(own) < len(listed)  # of which nothing is known but that they are there
    return None if beside or others else device.utilization
