"""Devices that cannot be used, as troubles that `modelium ls` shows until they are well."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.models import Device
from modelium.stages.services import Services, Trouble


def note_devices(services: Services, devices: Iterable[Device]) -> None:
    """Name those of ``devices`` that are unhealthy now in `Services.troubles`, and no others."""
    now = services.clock.monotonic()
    for device in devices:
        name = f"device {device.label}"
        if device.healthy:
            services.troubles.pop(name, None)
        else:
            services.troubles[name] = Trouble(
                at=now, sentence=f"{name} is not used: {device.detail or 'it is not healthy'}"
            )
