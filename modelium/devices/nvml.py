"""The NVIDIA GPUs of this host over NVML. Every call blocks."""

from __future__ import annotations

import pynvml

from modelium.errors import Unavailable
from modelium.models import Device, DeviceProcess

NO_NVML = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
"""Errors on a host without NVIDIA GPUs; any other error means a broken driver."""


def find_gpus(node: str) -> NvmlInventory | None:
    """Return the inventory of this host's GPUs; ``None``: it has none.

    Raises:
        Unavailable: a driver is installed but does not work.
    """
    try:
        inventory = NvmlInventory(node=node)
        return inventory if pynvml.nvmlDeviceGetCount() > 0 else None
    except pynvml.NVMLError as exc:
        if exc.value in NO_NVML:
            return None
        raise Unavailable(
            f"NVML is installed but does not work ({exc}): repair the NVIDIA driver "
            "(reboot after a driver update), then start Modelium again"
        ) from exc


class NvmlInventory:
    """The NVIDIA GPUs of this host.

    A GPU that was listed once stays in every snapshot: if it can no longer be read, it is
    unhealthy, with its last known size and no free memory.
    """

    def __init__(self, *, node: str) -> None:
        """Load NVML; raises ``pynvml.NVMLError``. Use `find_gpus`, which handles it."""
        pynvml.nvmlInit()
        self._node = node
        self._known: dict[str, Device] = {}

    def snapshot(self) -> tuple[Device, ...]:
        """Return all GPUs by index; total bytes exclude what the driver reserves."""
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as exc:
            return tuple(self._lost(device, f"NVML: {exc}") for device in self._known.values())
        found = {device.index: device for device in map(self._read, range(count))}
        seen = {device.uuid for device in found.values()}
        gone = [
            self._lost(device, "NVML no longer lists this GPU")
            for uuid, device in self._known.items()
            if uuid not in seen
        ]
        return (*found.values(), *gone)

    def _read(self, index: int) -> Device:
        try:
            device = self._measure(index)
        except pynvml.NVMLError as exc:
            known = next((d for d in self._known.values() if d.index == index), None)
            return self._lost(known or self._unread(index), f"NVML: {exc}")
        self._known[device.uuid] = device
        return device

    def _measure(self, index: int) -> Device:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        total, free = _memory(handle)
        partitioned = _has_mig(handle)
        return Device(
            node=self._node,
            uuid=pynvml.nvmlDeviceGetUUID(handle),
            kind="gpu",
            index=index,
            name=pynvml.nvmlDeviceGetName(handle),
            total_bytes=total,
            free_bytes=free,
            utilization=_utilization(handle),
            processes=tuple(
                # In some containers the driver reports processes without their memory.
                DeviceProcess(pid=process.pid, used_bytes=process.usedGpuMemory or 0)
                for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            ),
            healthy=not partitioned,
            detail="MIG is enabled; Modelium manages whole GPUs only" if partitioned else "",
        )

    def _unread(self, index: int) -> Device:
        return Device(
            node=self._node,
            uuid=f"index-{index}",
            kind="gpu",
            index=index,
            total_bytes=0,
            free_bytes=0,
        )

    def _lost(self, device: Device, detail: str) -> Device:
        return device.model_copy(
            update={
                "healthy": False,
                "detail": detail,
                "free_bytes": 0,
                "utilization": None,
                "processes": (),
            }
        )


def _memory(handle: object) -> tuple[int, int]:
    """Return (total, free) bytes for CUDA; older drivers do not report what they reserve."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return memory.total - memory.reserved, memory.free
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return memory.total, memory.free


def _utilization(handle: object) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError_NotSupported:
        return None


def _has_mig(handle: object) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return False
    return bool(current)
