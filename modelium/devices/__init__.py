"""The devices of this node: its GPUs and its CPU.

Every call blocks: make it off the event loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from modelium.config import Config
from modelium.devices.bounded import FIRST_S, LIMIT_S, BoundedInventory, answered
from modelium.devices.cpu import CPU_SHARE, CPU_SHARE_BESIDE_GPUS, CpuInventory
from modelium.devices.host import HostInventory
from modelium.devices.nvml import find_gpus
from modelium.devices.selection import VARIABLE, Selection
from modelium.devices.unmanaged import unmanaged
from modelium.errors import Unavailable
from modelium.models import GIB, Device
from modelium.ports import DeviceInventory

__all__ = ["HostInventory", "detect", "find_devices"]

logger = logging.getLogger(__name__)


def find_devices(config: Config) -> DeviceInventory:
    """Return the inventory that ``config`` asks for; raises as `detect`."""
    budget = config.orchestration.cpu_memory_gib
    return detect(
        config.orchestration.node,
        int(budget * GIB) if budget else None,
        use=config.devices.use,
        cpu=config.devices.cpu_beside_gpus,
    )


def detect(
    node: str,
    cpu_memory_bytes: int | None = None,
    *,
    use: Sequence[str] | None = None,
    cpu: bool = True,
    environment: Mapping[str, str] = os.environ,
    limit_s: float = LIMIT_S,
    first_s: float = FIRST_S,
) -> DeviceInventory:
    """Return the inventory of this host: the GPUs that may be used and the CPU.

    Args:
        node: name of this machine in device ids.
        cpu_memory_bytes: RAM budget of the CPU device; default: a share of the memory of this
            host or its cgroup, a small one beside GPUs.
        use: the GPUs to use, as `Selection` takes them; ``None``: all.
        cpu: whether the CPU is offered beside GPUs.
        environment: of this process; ``CUDA_VISIBLE_DEVICES`` counts.
        limit_s: for one answer of the NVIDIA driver, which may hang.
        first_s: for its first one, at least ``limit_s``.

    Raises:
        Unavailable: the NVIDIA driver is installed but does not work or answer, or ``use`` names
            GPUs that are not here. There is no fallback to the CPU, because models would silently
            run on the wrong device.
    """
    selection = Selection(use=use, visible=environment.get(VARIABLE))
    driver, found = answered(lambda: _awake(node), soon_s=limit_s, limit_s=first_s)
    gpus = None
    if driver is not None:
        gpus = BoundedInventory(devices=driver, known=found, limit_s=limit_s)
    if missing := selection.unmatched(found):
        raise Unavailable(
            f"devices.use names {', '.join(missing)}, which is not here; this machine has "
            f"{', '.join(map(_described, found)) or 'no NVIDIA GPU'}"
        )
    used, left_out = selection.split(found)
    for device, why in left_out:
        logger.info("GPU %s is not used: %s", device.label, why)
    for seen in unmanaged(nvml=gpus is not None):
        logger.warning("%s", seen.detail)
    if not used:
        logger.info("no NVIDIA GPU to use; the CPU of %s is the only device", node)
    share = CPU_SHARE_BESIDE_GPUS if used else CPU_SHARE
    processor = CpuInventory(node=node, budget_bytes=cpu_memory_bytes, share=share)
    if gpus is None:
        return processor
    beside = processor if cpu or not used else None
    return HostInventory(gpus=gpus, selection=selection, cpu=beside)


def _awake(node: str) -> tuple[DeviceInventory | None, tuple[Device, ...]]:
    """Return the GPUs, if there are any, and what they are; both may wake them."""
    driver = find_gpus(node)
    return driver, driver.snapshot() if driver is not None else ()


def _described(device: Device) -> str:
    return f"{device.label} ({device.name or 'GPU'}, {device.uuid})"
