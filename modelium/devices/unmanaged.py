"""GPUs that this machine has and Modelium does not manage. Reads /proc and /sys; blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AMD, NVIDIA = "0x1002", "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")
"""PCI classes of graphics cards and accelerators: VGA, 3D, and other display controllers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmanaged:
    """GPUs of one vendor."""

    vendor: str
    detail: str
    """A sentence that says what is there, and what to do."""
    repairable: bool
    """The operator can change it: a driver or a library is missing."""


def unmanaged(*, nvml: bool, root: Path = Path("/")) -> list[Unmanaged]:
    """Return the GPUs that are seen and cannot be used, by vendor.

    Args:
        nvml: NVML lists GPUs, so that NVIDIA's need no mention.
        root: where ``proc``, ``sys`` and ``dev`` are.
    """
    cards = _cards(root)
    found = []
    if (root / "dev/kfd").exists() or AMD in cards:
        found.append(
            Unmanaged(
                vendor="AMD",
                detail="AMD GPUs are seen and not managed: Modelium manages NVIDIA GPUs and CPUs",
                repairable=False,
            )
        )
    if nvml:
        return found
    if (root / "proc/driver/nvidia/version").exists():
        detail = (
            "the NVIDIA driver is loaded, but its library libnvidia-ml.so.1 is missing or lists "
            "no GPU: start the container with `--gpus all` and NVIDIA_DRIVER_CAPABILITIES with "
            "`utility`, or install the driver's libraries; until then models run on the CPU"
        )
        found.append(Unmanaged(vendor="NVIDIA", detail=detail, repairable=True))
    elif NVIDIA in cards:
        detail = (
            "NVIDIA GPUs are seen, but no driver is loaded: install the NVIDIA driver; until "
            "then models run on the CPU"
        )
        found.append(Unmanaged(vendor="NVIDIA", detail=detail, repairable=True))
    return found


def _cards(root: Path) -> list[str]:
    """Return the PCI vendor of each graphics card."""
    found = []
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            if (device / "class").read_text().startswith(DISPLAY_CLASSES):
                found.append(vendor)
        except OSError:
            continue
    return found
