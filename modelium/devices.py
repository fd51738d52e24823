"""The devices of this node: its GPUs over NVML or, on a host without any, its CPU.

The only import of pynvml. Everything here blocks: call it off the event loop.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pynvml

from modelium.errors import Unavailable
from modelium.models import Device, DeviceProcess
from modelium.ports import DeviceInventory

log = logging.getLogger(__name__)

CPU_SHARE = 0.75
"""Share of a host's memory that its CPU device offers; the rest is for the system and Modelium."""

NO_NVML = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
"""What a host without NVIDIA GPUs answers; other errors mean a broken driver."""


def detect(node: str, cpu_memory_bytes: int | None = None) -> DeviceInventory:
    """Find the inventory of this host: its GPUs where NVML shows any, else its CPU.

    Args:
        node: this machine's name in device ids.
        cpu_memory_bytes: RAM budget of the CPU device; default three quarters of the memory
            that this host (or its cgroup) has.

    Raises:
        Unavailable: there is a driver, but it does not answer. Falling back to the CPU would
            quietly place models where nobody wants them.
    """
    try:
        inventory = NvmlInventory(node=node)
        if pynvml.nvmlDeviceGetCount() > 0:
            return inventory
    except pynvml.NVMLError as exc:
        if exc.value not in NO_NVML:
            raise Unavailable(
                f"NVML is installed but does not work ({exc}): repair the NVIDIA driver "
                "(after an update of the driver, reboot), then start again"
            ) from exc
    log.info("no NVIDIA GPU found: offering the CPU of %s as the one device", node)
    return CpuInventory(node=node, budget_bytes=cpu_memory_bytes)


class NvmlInventory:
    """The NVIDIA GPUs of this host.

    A GPU that was seen once stays in every snapshot: when it cannot be read any more, it is
    unhealthy, with its last known size and no free memory.
    """

    def __init__(self, *, node: str) -> None:
        """Load NVML; raises its NVMLError where it cannot (see `detect`)."""
        pynvml.nvmlInit()
        self._node = node
        self._known: dict[str, Device] = {}

    def snapshot(self) -> tuple[Device, ...]:
        """All GPUs, by index; sizes in bytes without what the driver reserves for itself."""
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as exc:
            return tuple(self._lost(device, f"NVML: {exc}") for device in self._known.values())
        found = {device.index: device for device in map(self._read, range(count))}
        seen = {device.uuid for device in found.values()}
        gone = [
            self._lost(device, "NVML does not list it any more")
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
                # In some containers the driver does not tell who holds how much.
                DeviceProcess(pid=process.pid, used_bytes=process.usedGpuMemory or 0)
                for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            ),
            healthy=not partitioned,
            detail="MIG is on; Modelium manages whole GPUs only" if partitioned else "",
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


class CpuInventory:
    """The CPU of this host as one device with a RAM budget.

    Its processes are filled in by whoever knows which ones are models.
    """

    def __init__(
        self,
        *,
        node: str,
        budget_bytes: int | None = None,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        """``budget_bytes``: what models may take; default `CPU_SHARE` of the memory there is."""
        self._node = node
        self._proc = proc
        self._cgroups = cgroups
        self._budget = budget_bytes
        self._name = _cpu_name(proc)

    def snapshot(self) -> tuple[Device, ...]:
        """Measure the one device; free is what both the budget and the machine still have."""
        memory = _meminfo(self._proc)
        machine, available = memory["MemTotal"], memory["MemAvailable"]
        for limit, used in _cgroup_limits(self._proc, self._cgroups):
            machine = min(machine, limit)
            available = min(available, max(0, limit - used))
        budget = self._budget or int(machine * CPU_SHARE)
        return (
            Device(
                node=self._node,
                uuid="cpu",
                kind="cpu",
                name=self._name,
                total_bytes=budget,
                free_bytes=min(budget, available),
                utilization=min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)),
            ),
        )


def _memory(handle: object) -> tuple[int, int]:
    """(total, free) as CUDA sees them; older drivers do not tell their reserve."""
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


def _meminfo(proc: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    rows = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) >= 2}


def _cpu_name(proc: Path) -> str:
    for line in (proc / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"


def _cgroup_limits(proc: Path, cgroups: Path) -> list[tuple[int, int]]:
    """(limit, bytes in use that cannot be dropped) of each cgroup around this process."""
    found = []
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, names = cgroups / path.lstrip("/"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            folder = cgroups / "memory" / path.lstrip("/")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        for group in (folder, *folder.parents):
            if not group.is_relative_to(cgroups):
                break
            usage = _cgroup_usage(group, *names)
            if usage:
                found.append(usage)
    return found


def _cgroup_usage(group: Path, limit_file: str, usage_file: str) -> tuple[int, int] | None:
    try:
        limit = int((group / limit_file).read_text())
        used = int((group / usage_file).read_text())
        statistics = (group / "memory.stat").read_text()
    except (OSError, ValueError):  # no such group here, or its limit is the word "max"
        return None
    cache = [
        int(line.split()[1]) for line in statistics.splitlines() if line.startswith("inactive_file")
    ]
    return limit, max(0, used - sum(cache))
