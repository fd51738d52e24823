"""Where a load goes, and which models are evicted for it (no I/O here)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from agents.rules.device_memory import DeviceMemory
from agents.rules.device_order import order, saturated
from agents.rules.keep_value import loss_per_byte
from agents.rules.sizing import LoadOption
from modelium.models import Device, Model
from modelium.traffic.tally import HORIZONS_S

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

HOUR = HORIZONS_S.index(3600.0)


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

    @property
    def rank(self) -> tuple[int, int]:
        """Sort key among placements in free memory; the smaller is better."""
        return self.saturated, self.left


class Placer:
    """Finds devices for one load option at a time."""

    def __init__(self, *, memory: DeviceMemory) -> None:
        """``memory``: read, never changed."""
        self._memory = memory

    def in_free_memory(self, option: LoadOption) -> Placement | None:
        """Return the best devices for ``option`` without evictions; ``None`` if there are none.

        Best fit: the fullest devices that have room, which keeps large holes whole. It packs
        better than first fit and than sparing holes of the usual sizes (`bench/planner.py`).
        Busy devices come after idle ones: `agents.rules.device_order`.
        """
        degree = option.settings.tensor_parallel_size
        best: Placement | None = None
        for devices in _candidate_groups(option):
            rooms = {device.id: self._memory.room(device.id) for device in devices}
            able = [device for device in devices if rooms[device.id] >= option.reserve]
            if len(able) < degree:
                continue
            chosen = tightest = sorted(able, key=lambda d: (rooms[d.id], d.id))[:degree]
            if any(device.utilization for device in able):
                chosen = sorted(able, key=lambda d: order(d, rooms[d.id]))[:degree]
            ids = tuple(device.id for device in chosen)
            place = Placement(
                option=option,
                devices=ids,
                left=sum(rooms[device] - option.reserve for device in ids),
                saturated=sum(map(saturated, chosen)),
                spared=tuple(device.id for device in tightest if device.id not in ids),
            )
            if best is None or place.rank < best.rank:
                best = place
        return best

    def with_evictions(self, option: LoadOption, may_evict: MayEvict) -> Placement | None:
        """Return the devices whose evictions cost least; ``None`` if no evictions suffice."""
        if may_evict is no_model:
            return None
        found = [
            place
            for devices in _candidate_groups(option)
            for place in [self._evict_among(devices, option, may_evict)]
            if place is not None
        ]
        return min(found, key=lambda place: place.loss, default=None)

    def _evict_among(
        self, devices: Sequence[Device], option: LoadOption, may_evict: MayEvict
    ) -> Placement | None:
        degree, need = option.settings.tensor_parallel_size, option.reserve
        costs = (
            (sum(map(self._memory.value, victims)), saturated(device), device.id)
            for device in self._promising(devices, may_evict)
            for victims in [self._victims(device.id, need, may_evict, frozenset())]
            if victims is not None
        )
        compared = sorted(islice(costs, max(degree, DEVICES_COMPARED)))
        leaving: dict[str, Model] = {}
        chosen: list[str] = []
        for _, _, device_id in compared:
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

    def _promising(self, devices: Sequence[Device], may_evict: MayEvict) -> Sequence[Device]:
        """Order many devices by the request rate of their least used evictable model.

        Those without one come first: they have room, or are passed over at once.
        """
        if len(devices) <= DEVICES_COMPARED:
            return devices

        def order(device: Device) -> tuple[float, str]:
            able = filter(may_evict, self._memory.evictable(device.id))
            return min(map(_hourly_rate, able), default=-1.0), device.id

        return sorted(devices, key=order)

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
        held = memory.held(device)
        by_loss = sorted(
            (loss_per_byte(memory.value(model), held[model.name]), model.name, model)
            for model in memory.evictable(device)
            if model.name not in gone and may_evict(model)
        )
        able = [model for _, _, model in by_loss]

        def spare(*models: Model) -> int:
            return memory.room(device, gone.union(m.name for m in models)) - need

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


def _candidate_groups(option: LoadOption) -> Iterable[tuple[Device, ...]]:
    """Return the sets of devices to choose from; a model is split within one node only."""
    if option.settings.tensor_parallel_size == 1:
        return (option.group.devices,)
    return option.group.by_node()


def _hourly_rate(model: Model) -> float:
    rates = model.traffic.rates
    return rates[HOUR] if len(rates) > HOUR else model.traffic.qps_last_hour
