"""An inventory of devices that a test chooses, satisfying `ports.DeviceInventory`."""

from __future__ import annotations

from modelium.models import GIB, Device

CPU = Device(
    node="here", uuid="cpu", kind="cpu", name="a CPU", total_bytes=8 * GIB, free_bytes=8 * GIB
)


class FixedInventory:
    """An inventory that always has the devices in ``devices``."""

    def __init__(self, *devices: Device) -> None:
        """``devices``: default `CPU`."""
        self.devices = devices or (CPU,)

    def snapshot(self) -> tuple[Device, ...]:
        """Return the devices."""
        return self.devices
