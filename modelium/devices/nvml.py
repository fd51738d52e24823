"""The NVIDIA GPUs of this host over NVML. Every call blocks.

What a driver does not tell is unknown, and nothing else: each query fails by itself. Only a GPU
that cannot be reached at all is unhealthy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml

from modelium.devices import host_memory, processes
from modelium.errors import Unavailable
from modelium.models import Device, DeviceProcess

logger = logging.getLogger(__name__)

NO_NVML = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
"""Errors on a host without NVIDIA GPUs; any other error means a broken driver."""

UNREACHABLE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)
"""Errors of a query that concern the whole GPU; any other one concerns what was asked."""


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
    """The NVIDIA GPUs of this host; of a partitioned GPU, its MIG instances instead of itself.

    A device that was listed once stays in every snapshot: if it can no longer be read, it is
    unhealthy, with its last known size and no free memory.
    """

    def __init__(self, *, node: str, proc: Path = Path("/proc")) -> None:
        """Load NVML; raises ``pynvml.NVMLError``. Use `find_gpus`, which handles it."""
        pynvml.nvmlInit()
        self._node = node
        self._proc = proc
        self._known: dict[str, Device] = {}
        self._noted: set[tuple[str, str, int]] = set()
        self._first_seen: dict[tuple[str, int], int | None] = {}

    def snapshot(self) -> tuple[Device, ...]:
        """Return all devices by index; total bytes exclude what the driver reserves."""
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as exc:
            return tuple(device.lost(f"NVML: {exc}") for device in self._known.values())
        found = [device for index in range(count) for device in self._read(index)]
        seen = {device.uuid for device in found}
        gone = [
            device.lost("NVML no longer lists this GPU")
            for uuid, device in self._known.items()
            if uuid not in seen
        ]
        return (*found, *gone)

    def _read(self, index: int) -> list[Device]:
        """Return the GPU at ``index``, or its MIG instances."""
        try:
            found = list(self._measure(index))
        except pynvml.NVMLError as exc:
            known = [d for d in self._known.values() if d.index == index]
            return [d.lost(f"NVML: {exc}") for d in known or [self._unread(index)]]
        self._known.update((device.uuid, device) for device in found if device.total_bytes)
        return found

    def _measure(self, index: int) -> Iterator[Device]:
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        whole = self._device(gpu, index)
        mode = self._ask(whole.uuid, pynvml.nvmlDeviceGetMigMode, gpu)
        if not mode or not mode[0]:
            yield whole
            return
        instances = list(self._instances(gpu, whole))
        # The partitioned GPU itself takes no work, so it is offered only to say so.
        yield from instances or [
            whole.lost(
                "MIG is enabled and there is no instance: create one (`nvidia-smi mig`), "
                "or disable MIG",
            )
        ]

    def _instances(self, gpu: object, whole: Device) -> Iterator[Device]:
        most = self._ask(whole.uuid, pynvml.nvmlDeviceGetMaxMigDeviceCount, gpu)
        for position in range(most or 0):
            handle = self._ask(
                whole.uuid, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, position
            )
            if handle is not None:
                yield self._device(handle, whole.index, mig=position, whole=whole)

    def _device(
        self, handle: object, index: int, *, mig: int | None = None, whole: Device | None = None
    ) -> Device:
        place = f"index-{index}" if mig is None else f"index-{index}-{mig}"
        uuid = self._ask(place, pynvml.nvmlDeviceGetUUID, handle) or place
        total, free, unified = self._memory(uuid, handle)
        rates = self._ask(uuid, pynvml.nvmlDeviceGetUtilizationRates, handle)
        utilization = None if rates is None else float(rates.gpu) / 100
        return Device(
            node=self._node,
            uuid=uuid,
            kind="gpu",
            index=index,
            mig=mig,
            name=self._ask(uuid, pynvml.nvmlDeviceGetName, handle) or "",
            total_bytes=total,
            free_bytes=free,
            unified=unified,
            utilization=whole.utilization if utilization is None and whole else utilization,
            processes=self._processes(uuid, handle),
        )

    def _memory(self, uuid: str, handle: object) -> tuple[int, int, bool]:
        """Return total and free bytes as CUDA sees them, and whether they are the system's.

        Older drivers do not report what they reserve.
        """
        v2 = self._ask(uuid, _memory_v2, handle)
        if v2 is not None:
            return v2.total - v2.reserved, v2.free, False
        try:
            v1 = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError as exc:
            if exc.value in UNREACHABLE:
                raise
            if exc.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
                # Every GPU with memory of its own reports it. CUDA counts the system's there.
                memory = host_memory.read(self._proc)
                return memory.total_bytes, memory.available_bytes, True
            self._note(uuid, "nvmlDeviceGetMemoryInfo", exc)
            known = self._known.get(uuid)
            return (known.total_bytes, known.free_bytes, known.unified) if known else (0, 0, False)
        return v1.total, v1.free, False

    def _processes(self, uuid: str, handle: object) -> tuple[DeviceProcess, ...] | None:
        listed = self._ask(uuid, pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
        if listed is None or not self._are_ours(uuid, {process.pid for process in listed}):
            return None
        return tuple(
            # On WSL2 and in some containers the driver reports processes without their memory.
            DeviceProcess(pid=process.pid, used_bytes=process.usedGpuMemory)
            for process in listed
        )

    def _are_ours(self, uuid: str, pids: set[int]) -> bool:
        """Whether ``pids`` can be those of this PID namespace.

        Many drivers list the host's PIDs in a container, where another process may have the same
        number. Such a list shows itself by a PID that does not exist here, or that was listed
        before the process which has it here was started.
        """
        started = {(uuid, pid): processes.start_time(pid) for pid in pids}
        kept = {
            key: seen for key, seen in self._first_seen.items() if key[0] != uuid or key in started
        }
        self._first_seen = started | kept
        return all(processes.exists(pid) for pid in pids) and all(
            self._first_seen[key] == now for key, now in started.items()
        )

    def _ask(self, uuid: str, call: Callable[..., Any], *args: object) -> Any:
        """Return the answer of one query; ``None`` where the driver has none.

        Raises:
            pynvml.NVMLError: the GPU cannot be reached.
        """
        try:
            return call(*args)
        except pynvml.NVMLError as exc:
            if exc.value in UNREACHABLE:
                raise
            self._note(uuid, call.__name__, exc)
            return None

    def _note(self, uuid: str, call: str, exc: pynvml.NVMLError) -> None:
        """Log once what a driver does not tell."""
        key = (uuid, call, exc.value)
        if key not in self._noted:
            self._noted.add(key)
            logger.debug("%s: %s is not to be had: %s", uuid, call, exc)

    def _unread(self, index: int) -> Device:
        return Device(
            node=self._node,
            uuid=f"index-{index}",
            kind="gpu",
            index=index,
            total_bytes=0,
            free_bytes=0,
        )


def _memory_v2(handle: object) -> Any:
    return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
