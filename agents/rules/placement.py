"""Where a load goes and what has to leave for it: a working view of the devices' memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agents.rules.keep_value import loss_per_byte
from agents.rules.sizing import Option
from modelium.lifecycle import ModelState
from modelium.models import Booking, Device, Fleet, Model, RuntimeName
from modelium.policy import Policy
from modelium.policy.eligibility import is_pinned, should_unload, too_young
from modelium.policy.memory_budget import available_bytes
from modelium.traffic.book import HORIZONS_S

MayLeave = Callable[[Model], bool]
"""Whether a model that could be evicted may be evicted for this load."""


def anybody(_model: Model) -> bool:
    """Spare no model that could be evicted."""
    return True


def nobody(_model: Model) -> bool:
    """Evict no model."""
    return False


WEIGHED = 12
"""Devices on which evictions are weighed exactly, of many: their models' values cost time."""

SPARE_WORTH = 0.85
"""What memory that a large victim leaves over is worth, of the value per byte that the least
valuable models were to give up for it. Fitted (docs/planner.md)."""

HOUR = HORIZONS_S.index(3600.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One option on certain devices, with what has to leave first."""

    option: Option
    devices: tuple[str, ...]
    evicts: tuple[str, ...] = ()
    loss: float = 0.0
    """Load-seconds per second that the evictions are expected to cost."""
    left: int = 0
    """Bytes that stay free beside it; less is better."""


class Board:
    """The devices of a snapshot as a plan in the making leaves them. One per plan."""

    def __init__(
        self, *, fleet: Fleet, policy: Policy, now: float, value: Callable[[Model], float]
    ) -> None:
        """``value``: what keeping a model is worth, in load-seconds per second."""
        self.leaving: set[str] = set()
        self._fleet = fleet
        self._policy = policy
        self._now = now
        self._value = value
        self._added: dict[str, list[Booking]] = {}
        self._rooms: dict[str, int] = {}
        self._values: dict[str, float] = {}
        self._able_on: dict[str, list[Model]] = {}
        self._acts = dict.fromkeys(RuntimeName, False) | {
            r.name: r.enabled and r.healthy and policy.rules(r.name).enabled for r in fleet.runtimes
        }

    def value(self, model: Model) -> float:
        """Value of keeping ``model``, computed once per plan."""
        found = self._values.get(model.name)
        if found is None:
            found = self._values[model.name] = self._value(model)
        return found

    def bookings(self, device: str) -> tuple[Booking, ...]:
        """Bookings of ``device``, the plan's own loads included."""
        return (
            *self._fleet.bookings_by_device.get(device, ()),
            *self._added.get(device, ()),
        )

    def room(self, device: str, extra: frozenset[str] = frozenset()) -> int:
        """Bytes that may be booked on ``device`` after the plan so far and ``extra`` leaving."""
        if not extra and device in self._rooms:
            return self._rooms[device]
        room = available_bytes(
            self._fleet.devices_by_id[device],
            self.bookings(device),
            cap=self._policy.max_gpu_memory_utilization,
            after=self.leaving | extra,
        )
        if not extra:
            self._rooms[device] = room
        return room

    def unload(self, model: Model) -> None:
        """Take ``model`` off the board."""
        self.leaving.add(model.name)
        for device in model.deployment.devices if model.deployment else ():
            self._rooms.pop(device, None)
            self._able_on.pop(device, None)

    def load(self, model: Model, placement: Placement) -> None:
        """Put ``model`` on the board."""
        for device in placement.devices:
            held = self._added.setdefault(device, [])
            held.append(Booking(model=model.name, device=device, bytes=placement.option.reserve))
            self._rooms.pop(device, None)

    def stays_because(self, model: Model) -> str:
        """Why ``model`` cannot make room now; empty where it can."""
        if model.state is not ModelState.READY or model.name in self.leaving:
            return f"{model.state}"
        if model.traffic.in_flight or model.traffic.pending:
            return "busy"
        if is_pinned(model, self._policy):
            return "pinned"
        held = model.deployment
        if held is None or not self._acts[held.runtime]:
            return "its runtime is not to be acted on"
        swapping = self._policy.enable_model_swapping
        if swapping and not too_young(model, self._policy, now=self._now):
            return ""
        if should_unload(model, self._policy, now=self._now):
            return ""
        return "too young" if swapping else "swapping is off"

    # --- placing ----------------------------------------------------------------------

    def place(self, option: Option) -> Placement | None:
        """Find the best devices for ``option`` without evicting; None where there are none.

        Best fit: the fullest devices that have room, which keeps the large holes whole. It
        packed better than first fit and than sparing holes of the usual sizes
        (`bench/planner.py`).
        """
        degree = option.settings.tensor_parallel_size
        best: Placement | None = None
        for devices in self._groups(option):
            rooms = ((self.room(device.id), device.id) for device in devices)
            chosen = sorted(r for r in rooms if r[0] >= option.reserve)[:degree]
            left = sum(room - option.reserve for room, _ in chosen)
            if len(chosen) == degree and (best is None or left < best.left):
                ids = tuple(device for _, device in chosen)
                best = Placement(option=option, devices=ids, left=left)
        return best

    def swap(self, option: Option, may_leave: MayLeave) -> Placement | None:
        """Find devices for ``option`` whose evictions cost least; None where none suffice."""
        if may_leave is nobody:
            return None
        found = [
            place
            for devices in self._groups(option)
            for place in [self._swap_among(devices, option, may_leave)]
            if place is not None
        ]
        return min(found, key=lambda place: place.loss, default=None)

    def _groups(self, option: Option) -> Iterable[tuple[Device, ...]]:
        if option.settings.tensor_parallel_size == 1:
            return (option.sort.devices,)
        return option.sort.by_node()

    def _swap_among(
        self, devices: Sequence[Device], option: Option, may_leave: MayLeave
    ) -> Placement | None:
        degree, need = option.settings.tensor_parallel_size, option.reserve
        found: list[tuple[float, str, Sequence[Model]]] = []
        for device in self._promising(devices, may_leave):
            if len(found) >= max(degree, WEIGHED):
                break
            victims = self._victims(device.id, need, may_leave, frozenset())
            if victims is not None:
                found.append((sum(map(self.value, victims)), device.id, victims))
        found.sort(key=lambda f: f[:2])
        leaving: dict[str, Model] = {}
        chosen: list[str] = []
        for _, device_id, first in found:
            # A model that leaves one device of a split one frees its others too.
            victims = self._victims(device_id, need, may_leave, frozenset(leaving))
            for victim in first if victims is None else victims:
                leaving[victim.name] = victim
            chosen.append(device_id)
            if len(chosen) == degree:
                return Placement(
                    option=option,
                    devices=tuple(chosen),
                    evicts=tuple(leaving),
                    loss=sum(map(self.value, leaving.values())),
                )
        return None

    def _promising(self, devices: Sequence[Device], may_leave: MayLeave) -> Sequence[Device]:
        """Order many devices by their most rarely requested model that may leave; drop the rest."""
        if len(devices) <= WEIGHED:
            return devices
        ranked: list[tuple[float, str, Device]] = []
        for device in devices:
            able = [_hourly(m) for m in self._candidates(device.id) if may_leave(m)]
            if able:
                ranked.append((min(able), device.id, device))
        ranked.sort(key=lambda r: r[:2])
        return [device for _, _, device in ranked]

    def _victims(
        self, device: str, need: int, may_leave: MayLeave, gone: frozenset[str]
    ) -> Sequence[Model] | None:
        """Choose the least valuable models whose leaving makes ``need`` bytes free on ``device``.

        A knapsack cover by greed: least value per byte first until it fits, then whoever turns
        out not to be needed stays, most valuable first. A single model that suffices beats that
        set where it costs less, what it leaves free beyond the load's need set off against it.
        """
        room = self.room(device, gone)
        if room >= need:
            return ()
        held = self._held(device)
        able = self._able(device, held, may_leave, gone)

        def spare(*models: Model) -> int:
            return self.room(device, gone.union(m.name for m in models)) - need

        if not able or spare(*able) < 0:
            return None
        # The shortest run of the least valuable that suffices, by bisection: room only grows.
        low, high = 1, len(able)
        while low < high:
            middle = (low + high) // 2
            if spare(*able[:middle]) >= 0:
                high = middle
            else:
                low = middle + 1
        chosen = able[:low]
        price = SPARE_WORTH * self.value(chosen[-1]) / max(1, held[chosen[-1].name])
        for model in sorted(chosen, key=self.value, reverse=True):
            rest = [m for m in chosen if m is not model]
            if rest and spare(*rest) >= 0:
                chosen = rest
        least = sum(map(self.value, chosen)) - price * spare(*chosen)
        for model in able:
            # What it leaves free at most: asking the ledger for each would take long.
            most = room + held[model.name] - need
            if most < 0 or self.value(model) - price * most >= least:
                continue
            over = spare(model)
            cost = self.value(model) - price * over
            if over >= 0 and cost < least:
                chosen, least = [model], cost
        return chosen

    def _able(
        self, device: str, held: Mapping[str, int], may_leave: MayLeave, gone: frozenset[str]
    ) -> list[Model]:
        """Models that may leave ``device``, least value per byte that they hold first."""
        able = [
            (loss_per_byte(self.value(model), held[model.name]), model.name, model)
            for model in self._candidates(device)
            if model.name not in gone and may_leave(model)
        ]
        able.sort()
        return [model for _, _, model in able]

    def _held(self, device: str) -> dict[str, int]:
        """Bytes that each model gives back at most when it leaves: booked, or taken beyond that."""
        bookings = self._fleet.bookings_by_device.get(device, ())
        return {b.model: max(b.bytes, b.resident_bytes) for b in bookings}

    def _candidates(self, device: str) -> list[Model]:
        """Models on ``device`` that could make room."""
        found = self._able_on.get(device)
        if found is None:
            models = self._fleet.models_by_name
            found = self._able_on[device] = [
                model
                for b in self._fleet.bookings_by_device.get(device, ())
                if not b.releasing
                for model in [models.get(b.model)]
                if model is not None and not self.stays_because(model)
            ]
        return found


def _hourly(model: Model) -> float:
    rates = model.traffic.rates
    return rates[HOUR] if len(rates) > HOUR else model.traffic.qps_last_hour
