"""What `modelium doctor` says of the devices: used, left out, and not managed."""

from __future__ import annotations

from collections.abc import Iterator

from modelium.cli.findings import Finding
from modelium.config import Config
from modelium.devices import HostInventory, find_devices
from modelium.devices.unmanaged import unmanaged
from modelium.errors import Unavailable
from modelium.models import GIB, Device


def devices(config: Config) -> Iterator[Finding]:
    """Check every device of this machine."""
    try:
        inventory = find_devices(config)
    except Unavailable as exc:
        yield Finding(what="devices", ok=False, detail=str(exc))
        return
    for device in inventory.snapshot():
        detail = described(device) if device.healthy else device.detail
        yield Finding(what=f"device {device.label}", ok=device.healthy, detail=detail)
    host = inventory if isinstance(inventory, HostInventory) else None
    for device, why in host.left_out() if host else ():
        detail = f"{device.name or device.uuid}, not used: {why}"
        yield Finding(what=f"device {device.label}", ok=True, detail=detail)
    for seen in unmanaged(nvml=host is not None):
        yield Finding(what=f"{seen.vendor} GPUs", ok=not seen.repairable, detail=seen.detail)


def described(device: Device) -> str:
    """Return name and memory of a device, and what its driver does not tell."""
    memory = "memory unknown, so that nothing is placed there"
    if device.total_bytes:
        memory = f"{device.free_bytes / GIB:.1f} of {device.total_bytes / GIB:.1f} GiB free"
    parts = [device.name or device.kind, memory]
    if device.unified:
        parts.append("shared with the system")
    if device.processes is None:
        parts.append("processes unknown")
    elif any(process.used_bytes is None for process in device.processes):
        parts.append("memory of processes unknown")
    if device.utilization is None:
        parts.append("utilization unknown")
    return ", ".join(parts)
