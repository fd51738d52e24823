"""Devices, the bookings on them, and runtimes (no I/O here)."""

from __future__ import annotations

from typing import Literal

from modelium.models.base import Frozen, RuntimeName

DeviceKind = Literal["gpu", "cpu"]

SIZE_TOLERANCE = 0.01
"""By how much the memory of devices of one name may differ where they are used together."""


class DeviceProcess(Frozen):
    """A process that holds memory on a device."""

    pid: int
    used_bytes: int | None
    """``None``: the driver does not report it."""
    utilization: float | None = None
    """0…1, as `Device.utilization`; ``None``: the driver does not report it."""


class Device(Frozen):
    """One GPU, one MIG instance of a GPU, or the CPU of a host, at the moment of a snapshot."""

    node: str
    uuid: str
    """NVML's UUID; ``cpu`` for a host's CPU."""
    kind: DeviceKind
    index: int = 0
    """NVML's index of the GPU: its place in the order of the PCI bus."""
    mig: int | None = None
    """Position among the MIG instances of its GPU; ``None``: a whole GPU or a CPU."""
    name: str = ""
    """Product name, e.g. ``NVIDIA H100 80GB HBM3``; devices of one name are interchangeable."""
    total_bytes: int
    """0: the driver does not report it, and nothing can be placed there."""
    free_bytes: int
    unified: bool = False
    """The GPU has no memory of its own: its bytes are those of the system's memory."""
    utilization: float | None = None
    """0…1, the share of the last 10 s in which it worked; ``None``: the driver does not report
    it."""
    compute_capability: tuple[int, int] | None = None
    """CUDA's, e.g. (9, 0); ``None``: no NVIDIA GPU, or not reported."""
    processes: tuple[DeviceProcess, ...] | None = ()
    """Those that the driver lists, perhaps not all; ``None``: the list is not to be had or shows
    the PIDs of another PID namespace."""
    healthy: bool = True
    detail: str = ""
    """Why it is unhealthy."""

    @property
    def id(self) -> str:
        """``node/uuid``: stable over restarts, unique over machines."""
        return f"{self.node}/{self.uuid}"

    @property
    def label(self) -> str:
        """Name in metrics and tables: the GPU's index (``0:1``: a MIG instance), or a CPU's id."""
        if self.kind == "cpu":
            return self.id
        return str(self.index) if self.mig is None else f"{self.index}:{self.mig}"

    def lost(self, detail: str) -> Device:
        """Return this device as it is while it cannot be read: ``detail`` says why."""
        return self.model_copy(
            update={
                "healthy": False,
                "detail": detail,
                "free_bytes": 0,
                "utilization": None,
                "processes": None,
            }
        )


class Booking(Frozen):
    """Memory of one device that is reserved for a model in the store."""

    model: str
    device: str
    bytes: int
    resident_bytes: int | None = 0
    """Bytes that the model was last found to hold there; ``None``: it is loaded, and nobody could
    tell."""
    releasing: bool = False
    """The model is being evicted: another load may book the bytes, and use them once released."""

    @property
    def held_bytes(self) -> int:
        """Bytes that the model holds there: what was found, else what was booked for it."""
        return self.bytes if self.resident_bytes is None else self.resident_bytes


class RuntimeStatus(Frozen):
    """The state of one runtime of one node at its control loop's last check."""

    name: RuntimeName
    node: str = ""
    """Empty: of the only node."""
    enabled: bool
    """False: nothing is loaded or unloaded with it."""
    healthy: bool
    starting: bool = False
    """Not healthy yet, and nothing has failed so far."""
    detail: str = ""
    version: str = ""
    can_sleep: bool = False
    spans_nodes: bool = False
    """Whether it can load one model over the devices of several nodes, each with one part."""
    device_kinds: frozenset[DeviceKind] = frozenset({"gpu", "cpu"})
    """Devices that this installation can use; a build without CUDA has the CPU only."""
