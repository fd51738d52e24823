"""The devices of one group in the order of their room, kept up to date (no I/O here).

A fleet may have thousands of devices, and a sweep asks for room as often as models wait: each
question costs the logarithm of the devices, or one step per node.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Literal

from agents.rules.device_groups import DeviceGroup
from agents.rules.device_memory import DeviceMemory
from agents.rules.device_order import order, saturated
from modelium.models import Device

Way = Literal["pack", "spread"]
Entry = tuple[int, int, str]
"""Room of a device and of its node among the group's devices, in bytes; its id."""


class Rooms:
    """The rooms of one group's devices. It follows its memory."""

    def __init__(self, *, group: DeviceGroup, memory: DeviceMemory, way: Way) -> None:
        """``way``: which node is taken where nothing else decides."""
        self._memory = memory
        self._way = way
        self._group = group
        self._devices = {device.id: device for device in group.devices}
        self._busy = any(device.utilization for device in group.devices)
        self._of_node: dict[str, list[tuple[int, str]]] = {}
        self._free: dict[str, int] = {}
        self._entries: list[Entry] = []
        self._seen = len(memory.changes)
        for node in group.nodes:
            self._read(node)
            self._entries += self._of(node)
        self._entries.sort()

    def node_order(self, device: str) -> int:
        """Return the sort key of the node of ``device``; the smaller is taken first."""
        self._refresh()
        return self._key(self._devices[device].node)

    def best(
        self, need: int, count: int, nodes: int = 1
    ) -> tuple[list[Device], list[Device]] | None:
        """Return ``count`` devices with ``need`` bytes on each of ``nodes``, and the tightest ones.

        The two differ where the tightest ones are busier. ``None`` where there is no room.
        """
        self._refresh()
        if not self._entries or self._entries[-1][0] < need:
            return None
        if count == nodes == 1 and self._way == "pack":
            return self._packed(need)
        found: list[tuple[tuple[int, ...], list[Device], list[Device]]] = []
        for place, node in enumerate(self._of_node):
            pair = self._in_node(node, need, count)
            if pair is None:
                continue
            chosen, tightest, left = pair
            busy = sum(map(saturated, chosen)) if self._busy else 0
            key = self._key(node)
            ranks = (busy, key, left) if self._way == "spread" else (busy, left, key)
            found.append(((*ranks, place), chosen, tightest))
        if len(found) < nodes:
            return None
        taken = heapq.nsmallest(nodes, found, key=lambda each: each[0])
        return [d for _, chosen, _ in taken for d in chosen], [d for *_, t in taken for d in t]

    def _packed(self, need: int) -> tuple[list[Device], list[Device]]:
        """Return the fullest device with room, an idle one before a busy one nearly as full."""
        first = bisect_left(self._entries, (need,))
        tightest = self._devices[self._entries[first][2]]
        best, key = tightest, None
        if self._busy:
            for room, free, name in self._entries[first:]:
                device = self._devices[name]
                full, step, busy, _, _ = order(device, room)
                if key is not None and not key[0] and step > key[1]:
                    break  # those that follow have more room
                own = (full, step, busy, room, free, name)
                if key is None or own < key:
                    best, key = device, own
                if not full and not busy:
                    break  # of those as full as it, none is better
        return [best], [tightest]

    def _in_node(
        self, node: str, need: int, count: int
    ) -> tuple[list[Device], list[Device], int] | None:
        """Return ``count`` devices of ``node``, the tightest ones, and the bytes that stay free."""
        rooms = self._of_node[node]
        first = bisect_left(rooms, (need,))
        if len(rooms) - first < count:
            return None
        able: Sequence[tuple[int, str]] = rooms[first:]
        taken = able[:count]
        tightest = [self._devices[name] for _, name in taken]
        chosen = tightest
        if self._busy and any(self._devices[name].utilization for _, name in able):
            taken = sorted(able, key=lambda each: order(self._devices[each[1]], each[0]))[:count]
            chosen = [self._devices[name] for _, name in taken]
        return chosen, tightest, sum(room for room, _ in taken) - need * count

    def _key(self, node: str) -> int:
        free = self._free[node]
        return -free if self._way == "spread" else free

    def _refresh(self) -> None:
        changes = self._memory.changes
        if self._seen == len(changes):
            return
        changed = {
            self._devices[name].node for name in changes[self._seen :] if name in self._devices
        }
        self._seen = len(changes)
        for node in changed:
            for entry in self._of(node):
                del self._entries[bisect_left(self._entries, entry)]
            self._read(node)
            for entry in self._of(node):
                insort(self._entries, entry)

    def _read(self, node: str) -> None:
        rooms = sorted((self._memory.room(d.id), d.id) for d in self._group.nodes[node])
        self._of_node[node] = rooms
        self._free[node] = sum(room for room, _ in rooms)

    def _of(self, node: str) -> list[Entry]:
        free = self._free[node]
        return [(room, free, name) for room, name in self._of_node[node]]
