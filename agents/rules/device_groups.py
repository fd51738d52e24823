"""Groups of alike devices, and which of them suit a model (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from modelium.models import Device, ModelFormat, ModelProfile
from modelium.models.devices import SIZE_TOLERANCE

SMALL_BYTES = 256 * 1024**2
"""Weights up to which an ONNX model is put on a CPU beside GPUs: one request takes milliseconds
there, and a GPU's memory is left to models that need it."""

GPU_FORMATS = frozenset({ModelFormat.TENSORRT})


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceGroup:
    """Healthy devices of the same kind, product and size, on any node."""

    kind: str
    name: str
    total_bytes: int
    """Of the smallest one."""
    devices: tuple[Device, ...]
    splits: bool = True
    """Whether one model can be split over its devices: CUDA uses one MIG instance only."""
    nodes: dict[str, tuple[Device, ...]] = field(init=False, repr=False, compare=False)
    """Node → its devices among these."""

    def __post_init__(self) -> None:
        """Sort the devices by node: fleets are large, and each model asks for it."""
        nodes: dict[str, list[Device]] = {}
        for device in self.devices:
            nodes.setdefault(device.node, []).append(device)
        object.__setattr__(self, "nodes", {name: tuple(held) for name, held in nodes.items()})

    @property
    def product(self) -> str:
        """The name that memory estimates use: a GPU's product name where it is known."""
        return self.name or self.kind if self.kind == "gpu" else self.kind

    @property
    def most_together(self) -> int:
        """The most of its devices that one node has."""
        return max(map(len, self.nodes.values()), default=0)

    def by_node(self) -> Iterable[tuple[Device, ...]]:
        """Yield the devices of each node."""
        return self.nodes.values()

    def part(self, devices: Iterable[Device]) -> DeviceGroup:
        """Return the group of some of its devices."""
        return replace(self, devices=tuple(devices))


def device_groups(devices: Iterable[Device]) -> tuple[DeviceGroup, ...]:
    """Group healthy ``devices`` by kind, product and size, in the order of their first device.

    Two cards of one product differ by a few MiB, so sizes within `SIZE_TOLERANCE` are one.
    """
    products: dict[tuple[str, str, bool], list[tuple[int, Device]]] = {}
    for place, device in enumerate(devices):
        if device.healthy:
            key = (device.kind, device.name, device.mig is None)
            products.setdefault(key, []).append((place, device))
    groups = []
    for (kind, name, whole), alike in products.items():
        for same in _by_size(alike):
            group = DeviceGroup(
                kind=kind,
                name=name,
                total_bytes=min(device.total_bytes for _, device in same),
                devices=tuple(device for _, device in same),
                splits=kind == "gpu" and whole,
            )
            groups.append((same[0][0], group))
    return tuple(group for _, group in sorted(groups, key=lambda found: found[0]))


def suitable_groups(
    groups: Iterable[DeviceGroup], profile: ModelProfile, *, beside_gpus: bool
) -> tuple[DeviceGroup, ...]:
    """Return the ``groups`` that a runtime uses on which it may load a model, preferred kind first.

    Beside GPUs, the CPU is for small ONNX models and for runtimes that can use nothing else:
    another model would be served there many times slower, without anybody having asked for it.
    ``beside_gpus``: it can use GPUs, and there are some; they may be unhealthy, or on other nodes.
    """
    usable = [group for group in groups if group.kind == "gpu" or profile.format not in GPU_FORMATS]
    gpus = tuple(group for group in usable if group.kind == "gpu")
    cpus = tuple(group for group in usable if group.kind == "cpu")
    if not beside_gpus:
        return tuple(usable)
    small = profile.format is ModelFormat.ONNX and profile.weight_bytes <= SMALL_BYTES
    return (*cpus, *gpus) if small else gpus


def _by_size(placed: list[tuple[int, Device]]) -> list[list[tuple[int, Device]]]:
    """Split devices of one product by size, each part in the given order."""
    found: list[list[tuple[int, Device]]] = []
    for place, device in sorted(placed, key=lambda one: one[1].total_bytes):
        if found and device.total_bytes <= found[-1][0][1].total_bytes * (1 + SIZE_TOLERANCE):
            found[-1].append((place, device))
        else:
            found.append([(place, device)])
    return [sorted(same, key=lambda one: one[0]) for same in found]
