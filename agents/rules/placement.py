"""Where a load goes, and which models are evicted for it (no I/O here)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from agents.rules.device_groups import DeviceGroup
from agents.rules.device_memory import DeviceMemory
from agents.rules.device_order import saturated
from agents.rules.fair_queue import TERM_S
from agents.rules.keep_value import loss_per_byte
from agents.rules.room_index import Rooms, Way
from agents.rules.sizing import LoadOption
from agents.rules.victim_index import Victims
from modelium.models import Device, Model

MayEvict = Callable[[Model], bool]
"""Whether an evictable model may be evicted for this load."""


def any_model(_model: Model) -> bool:
    """Allow every evictable model to be evicted."""
    return True


def no_model(_model: Model) -> bool:
    """Allow no eviction."""
    return False


DEVICES_COMPARED = 12
"""Devices whose evictions are compared exactly; computing the values for many takes long."""

SPARE_WORTH = 0.85
"""Credit for memory that a victim frees beyond the load's need, as a share of the value per byte
of the least valuable set of victims. Fitted (docs/planner.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A load option on certain devices, and the models to evict first."""

    option: LoadOption
    devices: tuple[str, ...]
    evicts: tuple[str, ...] = ()
    loss: float = 0.0
    """Expected cost of the evictions, in load-seconds per second."""
    left: int = 0
    """Bytes that stay free on the devices; less is better."""
    saturated: int = 0
    """How many of the devices are busy nearly all the time."""
    spared: tuple[str, ...] = ()
    """Devices that fit better, and are busier."""
    fetch_s: float = 0.0
    """Seconds until its nodes have the files."""

    @property
    def rank(self) -> tuple[int, float, int]:
        """Sort key among placements in free memory; the smaller is better."""
        return self.saturated, self.fetch_s, self.left

    @property
    def cost(self) -> float:
        """Load-seconds per second that it costs: what it evicts, and the transfer of its files."""
        return self.loss + self.fetch_s / TERM_S


class Placer:
    """Finds devices for one load option at a time."""

    def __init__(self, *, memory: DeviceMemory, way: Way = "pack") -> None:
        """``memory``: read, never changed; ``way``: over nodes, where nothing else decides."""
        self._memory = memory
        self._way: Way = way
        # The keys are ids, and the values keep what they are the ids of.
        self._room_indices: dict[int, tuple[DeviceGroup, Rooms]] = {}
        self._victim_indices: dict[tuple[int, int], tuple[DeviceGroup, MayEvict, Victims]] = {}

    def in_free_memory(self, option: LoadOption) -> Placement | None:
        """Return the best devices for ``option`` without evictions; ``None`` if there are none.

        Best fit: the fullest devices that have room, which keeps large holes whole. It packs
        better than first fit and than sparing holes of the usual sizes (`bench/planner.py`).
        Busy devices come after idle ones: `agents.rules.device_order`. Among equally full ones,
        and with ``policies.placement: spread`` before that, the node decides.
        """
        degree = option.settings.tensor_parallel_size
        found = self._rooms(option.group).best(option.reserve, degree, option.parts)
        if found is None:
            return None
        chosen, tightest = found
        ids = tuple(device.id for device in chosen)
        return Placement(
            option=option,
            devices=ids,
            left=sum(map(self._memory.room, ids)) - option.reserve * len(ids),
            saturated=sum(map(saturated, chosen)),
            spared=tuple(device.id for device in tightest if device.id not in ids),
        )

    def with_evictions(self, option: LoadOption, may_evict: MayEvict) -> Placement | None:
        """Return the devices whose evictions cost least; ``None`` if no evictions suffice."""
        if may_evict is no_model:
            return None
        index = self._victim_index(option.group, may_evict)
        degree, need = option.settings.tensor_parallel_size, option.reserve
        if degree == option.parts == 1:
            return self._evict_among(index.devices(need), option, may_evict)
        found = []
        for devices in index.nodes(need, degree, option.parts):
            if len(devices) > DEVICES_COMPARED:
                devices = sorted(devices, key=lambda device: index.order(device.id))
            place = self._evict_among(devices, option, may_evict)
            if place is not None:
                found.append(place)
        if option.parts > 1:
            return self._joined(found, option)
        return min(found, key=lambda place: place.loss, default=None)

    def _joined(self, found: list[Placement], option: LoadOption) -> Placement | None:
        """Return one placement of the nodes whose evictions cost least."""
        if len(found) < option.parts:
            return None
        taken = sorted(found, key=lambda place: place.loss)[: option.parts]
        evicts = tuple(dict.fromkeys(name for place in taken for name in place.evicts))
        return Placement(
            option=option,
            devices=tuple(device for place in taken for device in place.devices),
            evicts=evicts,
            loss=sum(place.loss for place in taken),
        )

    def _rooms(self, group: DeviceGroup) -> Rooms:
        found = self._room_indices.get(id(group))
        if found is None:
            found = group, Rooms(group=group, memory=self._memory, way=self._way)
            self._room_indices[id(group)] = found
        return found[1]

    def _victim_index(self, group: DeviceGroup, may_evict: MayEvict) -> Victims:
        key = id(group), id(may_evict)
        found = self._victim_indices.get(key)
        if found is None:
            index = Victims(group=group, memory=self._memory, may_evict=may_evict)
            found = self._victim_indices[key] = group, may_evict, index
        return found[2]

    def _evict_among(
        self, devices: Iterable[Device], option: LoadOption, may_evict: MayEvict
    ) -> Placement | None:
        degree, need = option.settings.tensor_parallel_size, option.reserve
        rooms = self._rooms(option.group)
        costs = (
            (
                sum(map(self._memory.value, victims)),
                saturated(device),
                rooms.node_order(device.id),
                device.id,
            )
            for device in devices
            for victims in [self._victims(device.id, need, may_evict, frozenset())]
            if victims is not None
        )
        compared = sorted(islice(costs, max(degree, DEVICES_COMPARED)))
        leaving: dict[str, Model] = {}
        chosen: list[str] = []
        for *_, device_id in compared:
            # A split model that is evicted from one device frees its other devices too.
            victims = self._victims(device_id, need, may_evict, frozenset(leaving))
            leaving |= {victim.name: victim for victim in victims or ()}
            chosen.append(device_id)
            if len(chosen) == degree:
                return Placement(
                    option=option,
                    devices=tuple(chosen),
                    evicts=tuple(leaving),
                    loss=sum(map(self._memory.value, leaving.values())),
                )
        return None

    def _victims(
        self, device: str, need: int, may_evict: MayEvict, gone: frozenset[str]
    ) -> Sequence[Model] | None:
        """Return the least valuable models whose eviction frees ``need`` bytes on ``device``.

        A greedy knapsack cover: take the least value per byte until the load fits, then put back
        what turns out not to be needed, most valuable first. A single model that suffices wins
        where it costs less, after a credit for the memory that it frees beyond the need.

        Returns:
            The victims; empty where there is room already, ``None`` where evictions don't suffice.
        """
        memory = self._memory
        room = memory.room(device, gone)
        if room >= need:
            return ()
        held, ledger = memory.held(device), memory.ledger(device)
        by_loss = sorted(
            (loss_per_byte(memory.value(model), held[model.name]), model.name, model)
            for model in memory.evictable(device)
            if model.name not in gone and may_evict(model)
        )
        able = [model for _, _, model in by_loss]

        def spare(*models: Model) -> int:
            return ledger.room([*gone, *(m.name for m in models)]) - need

        if spare(*able) < 0:
            return None
        chosen = able[: _shortest_prefix(able, lambda models: spare(*models) >= 0)]
        price = SPARE_WORTH * memory.value(chosen[-1]) / held[chosen[-1].name]
        for model in sorted(chosen, key=memory.value, reverse=True):
            rest = [m for m in chosen if m is not model]
            if spare(*rest) >= 0:
                chosen = rest
        least = sum(map(memory.value, chosen)) - price * spare(*chosen)
        for model in able:
            # An upper bound on what it leaves spare: computing the room for each takes long.
            most = room + held[model.name] - need
            if most < 0 or memory.value(model) - price * most >= least:
                continue
            over = spare(model)
            cost = memory.value(model) - price * over
            if over >= 0 and cost < least:
                chosen, least = [model], cost
        return chosen


def _shortest_prefix(models: list[Model], suffices: Callable[[list[Model]], bool]) -> int:
    """Return the length of the shortest prefix that ``suffices``; the whole list does."""
    low, high = 1, len(models)
    while low < high:
        middle = (low + high) // 2
        if suffices(models[:middle]):
            high = middle
        else:
            low = middle + 1
    return low
