"""The memory that a plan leaves free, and which absent models it would hold (pure)."""

from __future__ import annotations

from agents.llm.what_if import unloads
from agents.rules.device_groups import device_groups
from modelium.lifecycle import ModelState
from modelium.models import Booking, Fleet, Load, Model, ModelProfile, Plan
from modelium.policy import Policy
from modelium.policy.memory_budget import available_bytes

ABSENT = frozenset({ModelState.QUEUED, ModelState.UNLOADED})


class Holes:
    """The bytes that can be booked on each healthy device after a plan."""

    def __init__(self, *, plan: Plan, fleet: Fleet, policy: Policy) -> None:
        """Take the loads and unloads of ``plan`` as carried out."""
        added: dict[str, list[Booking]] = {}
        for load in plan.loads:
            for device, size in load.reserve.items():
                booking = Booking(model=load.model, device=device, bytes=size)
                added.setdefault(device, []).append(booking)
        leaving = unloads(plan)
        self._rooms = {
            device.id: available_bytes(
                device,
                (*fleet.bookings_by_device.get(device.id, ()), *added.get(device.id, ())),
                cap=policy.max_gpu_memory_utilization,
                after=leaving,
            )
            for device in fleet.devices
        }
        self._sets = [
            (tuple(device.id for device in alike), group.splits)
            for group in device_groups(fleet.devices)
            for alike in group.by_node()
        ]
        """Devices over which one model can be split, and whether it can be."""

    @property
    def largest(self) -> int:
        """Bytes of the largest hole."""
        return max(self._rooms.values(), default=0)

    def hold(self, profile: ModelProfile) -> bool:
        """Whether the weights of ``profile`` fit, split as it may be."""
        return any(
            sum(self._rooms[d] >= profile.weight_bytes / degree for d in alike) >= degree
            for degree in profile.tensor_parallel_degrees
            for alike, splits in self._sets
            if splits or degree == 1
        )


def fitting(plan: Plan, other: Plan, fleet: Fleet, policy: Policy) -> list[Model]:
    """Return the absent models that fit free memory after ``plan``, and not after ``other``.

    Models that either of them loads are left out.
    """
    room, less = (Holes(plan=p, fleet=fleet, policy=policy) for p in (plan, other))
    acted_on = {a.model for p in (plan, other) for a in p.actions if isinstance(a, Load)}
    return [
        model
        for model in fleet.models
        if model.state in ABSENT
        and model.name not in acted_on
        and model.profile is not None
        and room.hold(model.profile)
        and not less.hold(model.profile)
    ]
