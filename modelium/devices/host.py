"""The devices of one machine: the GPUs that may be used, and its CPU. Every call blocks."""

from __future__ import annotations

from modelium.devices.cpu import CpuInventory
from modelium.devices.selection import Selection
from modelium.models import Device
from modelium.ports import DeviceInventory


class HostInventory:
    """The selected GPUs of this host, and its CPU beside them."""

    def __init__(
        self, *, gpus: DeviceInventory, selection: Selection, cpu: CpuInventory | None
    ) -> None:
        """``cpu``: offered beside GPUs that have memory of their own; ``None``: not offered."""
        self._gpus = gpus
        self._selection = selection
        self._cpu = cpu

    def snapshot(self) -> tuple[Device, ...]:
        """Return the GPUs by index, then the CPU."""
        used, _left_out = self._selection.split(self._gpus.snapshot())
        if self._cpu is None or any(device.unified for device in used):
            return used  # unified memory is offered once, by the GPU
        return (*used, *self._cpu.snapshot())

    def left_out(self) -> tuple[tuple[Device, str], ...]:
        """Return the GPUs that are not used, each with the reason."""
        _used, left_out = self._selection.split(self._gpus.snapshot())
        return left_out
