"""GPUs that this machine has and Modelium does not manage. Reads /proc and /sys; blocks."""

from __future__ import annotations

from pathlib import Path

AMD, NVIDIA = "0x1002", "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")
"""PCI classes of graphics cards and accelerators: VGA, 3D, and other display controllers."""


def unmanaged(root: Path = Path("/")) -> list[str]:
    """Return a sentence for each vendor whose GPUs are seen and cannot be used.

    Call it where NVML lists no GPU: an NVIDIA card that is seen then lacks its driver.

    Args:
        root: where ``proc``, ``sys`` and ``dev`` are.
    """
    cards = _cards(root)
    found = []
    amd = cards.count(AMD)
    if amd or (root / "dev/kfd").exists():
        found.append(
            f"{amd or 'some'} AMD GPU{'s are' if amd != 1 else ' is'} seen and not managed: "
            "Modelium manages NVIDIA GPUs and CPUs; models run on the CPU here"
        )
    if (root / "proc/driver/nvidia/version").exists():
        found.append(
            "the NVIDIA driver is loaded, but its library libnvidia-ml.so.1 does not answer: "
            "start the container with `--gpus all` or with NVIDIA_DRIVER_CAPABILITIES that "
            "include `utility`, or install the driver's libraries; models run on the CPU until then"
        )
    elif nvidia := cards.count(NVIDIA):
        found.append(
            f"{nvidia} NVIDIA GPU{'s are' if nvidia != 1 else ' is'} seen, but no driver is "
            "loaded: install the NVIDIA driver; models run on the CPU until then"
        )
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
