"""The CPU of this host as one device with a RAM budget. Every call blocks, for microseconds."""

from __future__ import annotations

import os
from pathlib import Path

from modelium.models import Device

CPU_SHARE = 0.75
"""Default share of a host's memory for models; the rest is for the system and Modelium."""


class CpuInventory:
    """The CPU of this host as one device with a RAM budget.

    `Device.processes` is empty; the monitor adds the processes of the models.
    """

    def __init__(
        self,
        *,
        node: str,
        budget_bytes: int | None = None,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        """``budget_bytes``: RAM for models; default: `CPU_SHARE` of the host's or cgroup's."""
        self._node = node
        self._proc = proc
        self._cgroups = cgroups
        self._budget = budget_bytes
        self._name = _cpu_name(proc)

    def snapshot(self) -> tuple[Device, ...]:
        """Measure the device; free bytes are at most the budget and what the machine has left."""
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


def _meminfo(proc: Path) -> dict[str, int]:
    """Return /proc/meminfo in bytes."""
    rows = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) >= 2}


def _cpu_name(proc: Path) -> str:
    for line in (proc / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"


def _cgroup_limits(proc: Path, cgroups: Path) -> list[tuple[int, int]]:
    """Return (limit, bytes in use without reclaimable cache) of each cgroup of this process."""
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
