"""What each device's memory will hold after the plan so far (no I/O here)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass

from modelium.lifecycle import ModelState
from modelium.models import Booking, Fleet, Model, RuntimeName
from modelium.policy import Policy
from modelium.policy.eligibility import is_pinned, should_unload, too_young
from modelium.policy.memory_budget import Budget

Share = tuple[int, int, int]
"""Bytes of one model on one device: booked, held, and booked but not held yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """One device after the plan so far."""

    budget: Budget
    staying: Mapping[str, Share]
    """By model."""

    def room(self, gone: Iterable[str]) -> int:
        """Return the bytes that can be booked once the models ``gone`` left too."""
        booked = held = unfilled = 0
        for name in gone:
            share = self.staying.get(name)
            if share is not None:
                booked += share[0]
                held += share[1]
                unfilled += share[2]
        return self.budget.room(booked, held, unfilled)


class DeviceMemory:
    """The memory of a snapshot's devices, changed by a plan's loads and unloads. One per plan."""

    def __init__(
        self, *, fleet: Fleet, policy: Policy, now: float, value: Callable[[Model], float]
    ) -> None:
        """Start with the bookings of ``fleet``.

        Args:
            fleet: the snapshot.
            policy: the operator's rules.
            now: seconds since the epoch.
            value: value of keeping a model, in load-seconds per second; called once per model.
        """
        self.leaving: set[str] = set()
        """Names of the models that the plan unloads."""
        self._fleet = fleet
        self._policy = policy
        self._now = now
        self._value = value
        self.changes: list[str] = []
        """Devices whose memory the plan has changed, in order, each as often as it was."""
        self._added: dict[str, list[Booking]] = {}
        self._rooms: dict[str, int] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._values: dict[str, float] = {}
        self._evictable: dict[str, list[Model]] = {}
        self._usable: dict[tuple[RuntimeName, str], bool] = {}
        self._silent = {node.name for node in fleet.nodes if node.silent}
        self._why_held: Counter[str] | None = None

    def value(self, model: Model) -> float:
        """Return the value of keeping ``model``."""
        found = self._values.get(model.name)
        if found is None:
            found = self._values[model.name] = self._value(model)
        return found

    def bookings(self, device: str) -> tuple[Booking, ...]:
        """Return the bookings of ``device``, the plan's own loads included."""
        return (
            *self._fleet.bookings_by_device.get(device, ()),
            *self._added.get(device, ()),
        )

    def added(self) -> Iterator[Booking]:
        """Yield the bookings of the plan's own loads."""
        for bookings in self._added.values():
            yield from bookings

    def without(self, models: Iterable[Model]) -> DeviceMemory:
        """Return what the memory would be if ``models`` left as well; this one stays as it is."""
        other = copy(self)
        other.leaving = set(self.leaving)
        other._added = {device: list(added) for device, added in self._added.items()}
        other._rooms, other._evictable = dict(self._rooms), dict(self._evictable)
        other._ledgers = dict(self._ledgers)
        other.changes = list(self.changes)
        other._why_held = None if self._why_held is None else self._why_held.copy()
        for model in models:
            other.unload(model)
        return other

    def room(self, device: str, extra: frozenset[str] = frozenset()) -> int:
        """Return the bytes that can be booked on ``device`` once the models ``extra`` left too."""
        if extra:
            return self.ledger(device).room(extra)
        room = self._rooms.get(device)
        if room is None:
            room = self._rooms[device] = self._budget(device).room()
        return room

    def ledger(self, device: str) -> Ledger:
        """Return what each model that stays on ``device`` has there."""
        found = self._ledgers.get(device)
        if found is None:
            staying: dict[str, Share] = {}
            for one in self.bookings(device):
                if one.model not in self.leaving:
                    held = one.held_bytes
                    own = (one.bytes, held, max(0, one.bytes - held))
                    had = staying.get(one.model, (0, 0, 0))
                    staying[one.model] = (had[0] + own[0], had[1] + own[1], had[2] + own[2])
            found = self._ledgers[device] = Ledger(budget=self._budget(device), staying=staying)
        return found

    def _budget(self, device: str) -> Budget:
        return Budget.of(
            self._fleet.devices_by_id[device],
            self.bookings(device),
            cap=self._policy.max_gpu_memory_utilization,
            after=self.leaving,
        )

    def held(self, device: str) -> Mapping[str, int]:
        """Return the most bytes that each model on ``device`` can give back.

        The larger of what is booked and what is held.
        """
        bookings = self._fleet.bookings_by_device.get(device, ())
        return {b.model: max(b.bytes, b.held_bytes) for b in bookings}

    def unload(self, model: Model) -> None:
        """Count ``model`` as gone."""
        if self._why_held is not None and model.deployment is not None:
            self._why_held[self._why_is_held(model)] -= 1
        self.leaving.add(model.name)
        if self._why_held is not None and model.deployment is not None:
            self._why_held[self._why_is_held(model)] += 1
        for device in model.deployment.devices if model.deployment else ():
            self.changes.append(device)
            self._rooms.pop(device, None)
            self._ledgers.pop(device, None)
            self._evictable.pop(device, None)

    def load(self, model: Model, devices: tuple[str, ...], size: int) -> None:
        """Book ``size`` bytes for ``model`` on each of ``devices``."""
        for device in devices:
            added = self._added.setdefault(device, [])
            added.append(Booking(model=model.name, device=device, bytes=size))
            self.changes.append(device)
            self._rooms.pop(device, None)
            self._ledgers.pop(device, None)

    def evictable(self, device: str) -> list[Model]:
        """Return the models on ``device`` that may be evicted."""
        found = self._evictable.get(device)
        if found is None:
            models = self._fleet.models_by_name
            found = self._evictable[device] = [
                model
                for b in self._fleet.bookings_by_device.get(device, ())
                if not b.releasing
                for model in [models.get(b.model)]
                if model is not None and not self.unevictable_because(model)
            ]
        return found

    def unevictable_because(self, model: Model) -> str:
        """Return why ``model`` cannot be evicted now; empty where it can."""
        if model.state is not ModelState.READY or model.name in self.leaving:
            return f"{model.state}"
        if model.traffic.in_flight or model.traffic.pending:
            return "busy"
        if is_pinned(model, self._policy):
            return "pinned"
        held = model.deployment
        if held is not None and self._silent and not self._silent.isdisjoint(held.nodes):
            return "on a node that is silent"
        if held is None or not self._answers(held.runtime, held.node):
            return "on a runtime that is disabled or unhealthy"
        swapping = self._policy.enable_model_swapping
        if swapping and not too_young(model, self._policy, now=self._now):
            return ""
        if should_unload(model, self._policy, now=self._now):
            return ""
        if swapping:
            return f"ready for less than {self._policy.min_residency_s:g} s (min_residency_seconds)"
        return "kept because enable_model_swapping is off"

    def why_held(self, but: Model) -> Counter[str]:
        """Return how many models other than ``but`` are in memory, by what keeps them there."""
        if self._why_held is None:
            self._why_held = Counter(
                self._why_is_held(model)
                for model in self._fleet.models
                if model.deployment is not None
            )
        found = self._why_held
        own = self._fleet.models_by_name.get(but.name)
        if own is not None and own.deployment is not None:
            found = found - Counter([self._why_is_held(own)])
        return +found

    def _why_is_held(self, model: Model) -> str:
        return self.unevictable_because(model) or "idle, but not to be evicted for this load"

    def _answers(self, runtime: RuntimeName, node: str) -> bool:
        """Whether ``runtime`` is enabled on ``node``, and healthy."""
        key = runtime, node
        found = self._usable.get(key)
        if found is None:
            status = self._fleet.runtime_on(runtime, node)
            found = self._usable[key] = (
                status is not None
                and status.enabled
                and status.healthy
                and self._policy.rules(runtime).enabled
            )
        return found
