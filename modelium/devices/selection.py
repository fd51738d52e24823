"""Which GPUs may be used: the operator's list and ``CUDA_VISIBLE_DEVICES`` (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelium.models import Device

VARIABLE = "CUDA_VISIBLE_DEVICES"


class Selection:
    """The GPUs that may be used; the others are left alone, each with the reason."""

    def __init__(self, *, use: Sequence[str] | None = None, visible: str | None = None) -> None:
        """Take both lists.

        Args:
            use: of the configuration: indexes of NVML, UUIDs or their beginnings, or parts of
                product names; ``None``: all.
            visible: ``CUDA_VISIBLE_DEVICES`` of this process, with indexes in the order of the
                PCI bus; ``None``: it is not set.
        """
        self._use = use
        self._visible = visible

    def split(
        self, devices: Iterable[Device]
    ) -> tuple[tuple[Device, ...], tuple[tuple[Device, str], ...]]:
        """Return the GPUs to use, and those left out with the reason."""
        found = tuple(devices)
        visible = self._visible_ids(found)
        used, left_out = [], []
        for device in found:
            if visible is not None and device.id not in visible:
                left_out.append((device, f"{VARIABLE}={self._visible} leaves it out"))
            elif self._use is not None and not any(_names(entry, device) for entry in self._use):
                left_out.append((device, "devices.use does not name it"))
            else:
                used.append(device)
        return tuple(used), tuple(left_out)

    def unmatched(self, devices: Iterable[Device]) -> list[str]:
        """Return the entries of ``use`` that name none of ``devices``."""
        found = tuple(devices)
        return [e for e in self._use or () if not any(_names(e, device) for device in found)]

    def _visible_ids(self, devices: Sequence[Device]) -> set[str] | None:
        """Return the ids that CUDA would see; ``None``: all.

        As in CUDA, an entry that names nothing ends the list.
        """
        if self._visible is None:
            return None
        seen: set[str] = set()
        for entry in self._visible.split(","):
            matching = {
                device.id
                for device in devices
                if (
                    entry.strip() == str(device.index)
                    if entry.strip().isdecimal()
                    else _begins(entry.strip(), device)
                )
            }
            if not matching:
                break
            seen |= matching
        return seen


def _names(entry: str, device: Device) -> bool:
    if entry.isdecimal() or ":" in entry:
        return entry in (str(device.index), device.label)
    return _begins(entry, device) or entry.lower() in device.name.lower()


def _begins(entry: str, device: Device) -> bool:
    """Whether ``entry`` is the beginning of a UUID, as CUDA allows it."""
    return entry.upper().startswith(("GPU-", "MIG-")) and device.uuid.lower().startswith(
        entry.lower()
    )
