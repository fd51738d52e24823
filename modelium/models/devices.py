"""Devices, the bookings on them, and runtimes (no I/O here)."""

from __future__ import annotations

from typing import Literal

from modelium.models.base import Frozen, RuntimeName


class DeviceProcess(Frozen):
    """A process that holds memory on a device."""

    pid: int
    used_bytes: int


class Device(Frozen):
    """One GPU, or the CPU of a host without GPUs, at the moment of a snapshot."""

    node: str
    uuid: str
    """NVML's UUID; ``cpu`` for a host's CPU."""
    kind: Literal["gpu", "cpu"]
    index: int = 0
    name: str = ""
    """Product name, e.g. ``NVIDIA H100 80GB HBM3``; devices of one name are interchangeable."""
    total_bytes: int
    free_bytes: int
    utilization: float | None = None
    """0…1; ``None``: the driver does not report it."""
    processes: tuple[DeviceProcess, ...] = ()
    healthy: bool = True
    detail: str = ""
    """Why it is unhealthy."""

    @property
    def id(self) -> str:
        """``node/uuid``: stable over restarts, unique over machines."""
        return f"{self.node}/{self.uuid}"

    @property
    def label(self) -> str:
        """Name in metrics and tables: the GPU's index, or the id of a CPU device."""
        return str(self.index) if self.kind == "gpu" else self.id


class Booking(Frozen):
    """Memory of one device that is reserved for a model in the store."""

    model: str
    device: str
    bytes: int
    resident_bytes: int = 0
    """Bytes that the model's processes used there at the last measurement."""
    releasing: bool = False
    """The model is being evicted: another load may book the bytes, and use them once released."""


class RuntimeStatus(Frozen):
    """The state of one runtime at the control loop's last check."""

    name: RuntimeName
    enabled: bool
    """False: nothing is loaded or unloaded with it."""
    healthy: bool
    starting: bool = False
    """Not healthy yet, and nothing has failed so far."""
    detail: str = ""
    version: str = ""
    can_sleep: bool = False
