"""The machines: devices, what is booked on them, and the runtimes (no I/O here)."""

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
    """Product name, e.g. ``NVIDIA H100 80GB HBM3``: devices of one name are alike."""
    total_bytes: int
    free_bytes: int
    utilization: float | None = None
    """0…1, ``None`` where it cannot be read."""
    processes: tuple[DeviceProcess, ...] = ()
    healthy: bool = True
    detail: str = ""
    """Why it is not healthy."""

    @property
    def id(self) -> str:
        """``node/uuid``: stable over restarts, unique over machines."""
        return f"{self.node}/{self.uuid}"

    @property
    def label(self) -> str:
        """What metrics and people call it: the GPU's index, or the id of a CPU device."""
        return str(self.index) if self.kind == "gpu" else self.id


class Booking(Frozen):
    """Memory of one device that the store holds for a model."""

    model: str
    device: str
    bytes: int
    resident_bytes: int = 0
    """What the model's processes were last seen to hold there."""
    releasing: bool = False
    """The model is being evicted: the bytes are promised, and usable once verified."""


class RuntimeStatus(Frozen):
    """One runtime as the loop last saw it."""

    name: RuntimeName
    enabled: bool
    """False: observe and serve, do not act."""
    healthy: bool
    detail: str = ""
    version: str = ""
    can_sleep: bool = False
