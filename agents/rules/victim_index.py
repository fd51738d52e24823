"""The devices of one group in the order in which evictions are tried, kept up to date (pure)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from agents.rules.device_groups import DeviceGroup
from agents.rules.device_memory import DeviceMemory
from modelium.models import Device, Model
from modelium.traffic.tally import HORIZONS_S

HOUR = HORIZONS_S.index(3600.0)

NODES_COMPARED = 12
"""Nodes on which the evictions for a split model are compared exactly."""


class Victims:
    """Where models may be evicted for loads of one kind. It follows its memory.

    Devices come in the order of the request rate of their least used evictable model; those
    without one come first: they have room, or are passed over at once.
    """

    def __init__(
        self, *, group: DeviceGroup, memory: DeviceMemory, may_evict: Callable[[Model], bool]
    ) -> None:
        """``may_evict``: whether an evictable model may go for these loads."""
        self._memory = memory
        self._may_evict = may_evict
        self._nodes = [[(d.id, d) for d in held] for held in group.nodes.values()]
        self._devices = {name: device for held in self._nodes for name, device in held}
        self._rates: dict[str, float] = {}
        self._most: dict[str, int] = {}
        """Device → upper bound of the bytes that evictions leave free."""
        self._seen = len(memory.changes)
        for device in self._devices:
            self._read(device)
        self._order = sorted((rate, device) for device, rate in self._rates.items())
        self._peak = max(self._most.values(), default=0)

    def devices(self, need: int) -> Iterator[Device]:
        """Yield the devices on which evictions might free ``need`` bytes, promising ones first."""
        self._refresh()
        if self._peak < need:
            return
        for _, name in self._order:
            if self._most[name] >= need:
                yield self._devices[name]

    def nodes(self, need: int, count: int, least: int = 1) -> list[list[Device]]:
        """Return the devices of nodes on which ``count`` might have ``need`` bytes each.

        All of few nodes, and of many the most promising ones, ``least`` at least.
        """
        self._refresh()
        if self._peak < need:
            return []
        found: list[tuple[float, int, list[Device]]] = []
        most, rates = self._most, self._rates
        for place, held in enumerate(self._nodes):
            able = [(name, device) for name, device in held if most[name] >= need]
            if len(able) >= count:
                lowest = sorted([rates[name] for name, _ in able])[:count]
                found.append((sum(lowest), place, [device for _, device in able]))
        compared = max(NODES_COMPARED, least)
        if len(found) > compared:
            found = sorted(found, key=lambda each: each[:2])[:compared]
        return [able for _, _, able in found]

    def order(self, device: str) -> tuple[float, str]:
        """Return the sort key of ``device``."""
        return self._rates[device], device

    def _refresh(self) -> None:
        changes = self._memory.changes
        if self._seen == len(changes):
            return
        changed = {name for name in changes[self._seen :] if name in self._devices}
        self._seen = len(changes)
        for device in changed:
            del self._order[bisect_left(self._order, (self._rates[device], device))]
            self._read(device)
            insort(self._order, (self._rates[device], device))
        if changed:
            self._peak = max(self._most.values())

    def _read(self, device: str) -> None:
        able = list(filter(self._may_evict, self._memory.evictable(device)))
        self._rates[device] = min(map(_hourly_rate, able), default=-1.0)
        room = self._memory.room(device)
        if able:
            held = self._memory.held(device)
            room += sum(held[model.name] for model in able)
        self._most[device] = room


def _hourly_rate(model: Model) -> float:
    rates = model.traffic.rates
    return rates[HOUR] if len(rates) > HOUR else model.traffic.qps_last_hour
