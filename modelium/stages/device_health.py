"""Devices that cannot be used, as troubles that `modelium ls` shows until they are well."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.models import Device
from modelium.stages.services import Services, Trouble

PREFIX = "device "


def note_devices(services: Services, devices: Iterable[Device]) -> None:
    """Name those of ``devices`` that are unhealthy now in `Services.troubles`, and no others."""
    now, devices = services.clock.monotonic(), tuple(devices)
    names = {f"{PREFIX}{device.label}" for device in devices}
    for name in [n for n in services.troubles if n.startswith(PREFIX) and n not in names]:
        del services.troubles[name]  # its node was removed
    for device in devices:
        name = f"{PREFIX}{device.label}"
        if device.healthy:
            services.troubles.pop(name, None)
        else:
            services.troubles[name] = Trouble(
                at=now, sentence=f"{name} is not used: {device.detail or 'it is not healthy'}"
            )
