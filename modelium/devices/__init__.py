"""The devices of this node: its GPUs, or its CPU where it has none.

Every call blocks: make it off the event loop.
"""

from __future__ import annotations

import logging

from modelium.devices.cpu import CpuInventory
from modelium.devices.nvml import find_gpus
from modelium.ports import DeviceInventory

__all__ = ["detect"]

logger = logging.getLogger(__name__)


def detect(node: str, cpu_memory_bytes: int | None = None) -> DeviceInventory:
    """Return the inventory of this host: its GPUs where NVML lists any, else its CPU.

    Args:
        node: name of this machine in device ids.
        cpu_memory_bytes: RAM budget of the CPU device; default: three quarters of the memory
            of this host or its cgroup.

    Raises:
        Unavailable: the NVIDIA driver is installed but does not work. There is no fallback to
            the CPU, because models would silently run on the wrong device.
    """
    gpus = find_gpus(node)
    if gpus is not None:
        return gpus
    logger.info("no NVIDIA GPU found; the CPU of %s is the only device", node)
    return CpuInventory(node=node, budget_bytes=cpu_memory_bytes)
