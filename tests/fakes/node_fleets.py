"""Small fleets over several nodes."""

from __future__ import annotations

from typing import Any

from modelium.models import GIB, Booking, Device, Fleet, Model, Node, NodeReport, RuntimeStatus
from modelium.models.base import RuntimeName
from tests.fakes.fleets import NOW


def node(name: str, *, report: dict[str, Any] | None = None, **given: Any) -> Node:
    """Return a node that takes models; ``report``: fields of its report."""
    return Node(name=name, report=NodeReport(**(report or {})), **given)


def over(*nodes: Node, models: tuple[Model, ...] = (), gpus: int = 1, **given: Any) -> Fleet:
    """Return ``gpus`` of 80 GiB on each of ``nodes``, ``g0`` …, with what ``models`` hold there."""
    bookings = tuple(
        Booking(model=each.name, device=device, bytes=size, resident_bytes=size)
        for each in models
        if each.deployment is not None and each.profile is not None and each.state != "sleeping"
        for device in each.deployment.devices
        for size in [each.profile.weight_bytes // len(each.deployment.devices)]
    )
    used = {b.device: 0 for b in bookings}
    for booking in bookings:
        used[booking.device] += booking.bytes
    devices = tuple(
        Device(
            node=each.name,
            uuid=f"g{i}",
            kind="gpu",
            index=i,
            name="H100",
            total_bytes=80 * GIB,
            free_bytes=80 * GIB - used.get(f"{each.name}/g{i}", 0),
        )
        for each in nodes
        for i in range(gpus)
    )
    fields: dict[str, Any] = {
        "at": NOW,
        "revision": 7,
        "models": models,
        "bookings": bookings,
        "devices": devices,
        "runtimes": tuple(
            RuntimeStatus(name=name, node=each.name, enabled=True, healthy=True)
            for each in nodes
            if not each.silent
            for name in (RuntimeName.VLLM, RuntimeName.RAY_SERVE)
        ),
        "nodes": nodes,
    }
    return Fleet(**{**fields, **given})
