"""The devices of this node: its GPUs over NVML or, on a host without any, its CPU.

Everything here blocks: call it off the event loop.
"""

from __future__ import annotations

import logging

from modelium.devices.cpu import CpuInventory
from modelium.devices.nvml import find_gpus
from modelium.ports import DeviceInventory

__all__ = ["detect"]

logger = logging.getLogger(__name__)


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
    gpus = find_gpus(node)
    if gpus is not None:
        return gpus
    logger.info("no NVIDIA GPU found: offering the CPU of %s as the one device", node)
    return CpuInventory(node=node, budget_bytes=cpu_memory_bytes)
