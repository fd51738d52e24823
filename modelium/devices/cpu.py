"""The CPU of this host as one device with a RAM budget. Every call blocks, for microseconds."""

from __future__ import annotations

import os
from pathlib import Path

from modelium.devices import host_memory
from modelium.models import Device

CPU_SHARE = 0.75
"""Default share of a host's memory for models; the rest is for the system and Modelium."""

CPU_SHARE_BESIDE_GPUS = 0.25
"""The same where there are GPUs: their engines need the host's memory, too."""


class CpuInventory:
    """The CPU of this host as one device with a RAM budget.

    `Device.processes` is empty; the monitor adds the processes of the models.
    """

    def __init__(
        self,
        *,
        node: str,
        budget_bytes: int | None = None,
        share: float = CPU_SHARE,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        """``budget_bytes``: RAM for models; default: ``share`` of the host's or cgroup's."""
        self._node = node
        self._proc = proc
        self._cgroups = cgroups
        self._budget = budget_bytes
        self._share = share
        self._name = _cpu_name(proc)

    def snapshot(self) -> tuple[Device, ...]:
        """Measure the device; free bytes are at most the budget and what the machine has left."""
        memory = host_memory.within_cgroups(self._proc, self._cgroups)
        available = memory.available_bytes
        budget = self._budget or int(memory.total_bytes * self._share)
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


def _cpu_name(proc: Path) -> str:
    for line in (proc / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"
