"""Which of a model's load options is taken, and where: the search over options and devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from types import MappingProxyType

from agents.rules.demand import roomier, sufficient
from agents.rules.device_groups import DeviceGroup
from agents.rules.device_memory import DeviceMemory
from agents.rules.placement import MayEvict, Placement, Placer
from agents.rules.sizing import Choose, LoadOption, Sizer
from modelium.lifecycle import ModelState
from modelium.models import GIB, Candidate, Fleet, Model
from modelium.models.advice import Spot
from modelium.policy import Policy

NO_SPOTS: Mapping[str, Spot] = MappingProxyType({})

DEVICES_NAMED = 16
"""Devices recorded for an option that lost."""

CANDIDATES_KEPT = 16
"""Losing options recorded per plan: enough to explain it, few enough to store."""


class PlacementSearch:
    """Finds placements and records the options that lost. One per plan."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        policy: Policy,
        sizer: Sizer,
        placer: Placer,
        spots: Mapping[str, Spot] = NO_SPOTS,
    ) -> None:
        """Search over the devices of ``fleet``; ``spots``: advice, by model."""
        self.candidates: list[Candidate] = []
        """The options compared so far; the winners have an empty ``lost``."""
        self._subject = ""
        self._fleet = fleet
        self._policy = policy
        self._sizer = sizer
        self._placer = placer
        self._spots = spots
        self._sites = sizer.sites(fleet, policy)
        self._sized: dict[tuple[str, bool], list[LoadOption]] = {}
        """Options by model and whether they are smaller; they depend on nothing that changes."""
        self._queued = [m.name for m in fleet.models if m.state is ModelState.QUEUED][:2]

    def within(self, memory: DeviceMemory) -> PlacementSearch:
        """Return the same search in another ``memory``; it records its losers here."""
        other = copy(self)
        other._placer = Placer(memory=memory)
        return other

    def least_bytes(self, model: Model) -> int | None:
        """Return the bytes that ``model`` takes on all devices, as requested where it fits alone.

        Else with smaller settings; ``None`` where it fits on no device.
        """
        for smaller in (False, True):
            options = self._sizes(model, smaller=smaller)
            found = min((_total(option) for option in options), default=None)
            if found is not None:
                return found
        return None

    def find(
        self, model: Model, may_evict: MayEvict, *, limit: int | None = None
    ) -> Placement | None:
        """Return where to load ``model``; ``None`` where there is no room.

        Tried in this order: the advised devices, the model's preference in free memory, more than
        the requested settings there while nobody queues, the requested settings there, a shorter
        context there that suffices for the known requests, the requested settings with evictions
        (the shorter context instead, where its evictions cost less; the preference, where they cost
        no more), smaller settings in free memory, smaller settings with evictions.

        ``limit``: most bytes that it may take on all devices; ``None``: any.
        """
        self._subject = model.name
        preferred = self._within_limit(self._preferred(model), limit)
        advised = self._on_its_spot(model, preferred, limit)
        if advised is not None:
            return advised
        larger = self._within_limit(self._roomier(model), limit)
        best = self._in_free_memory(preferred) or self._quietly(larger)
        if best is not None:
            return best
        for smaller in (False, True):
            options = self._within_limit(self._options(model, smaller=smaller), limit)
            enough = [] if smaller else self._within_limit(self._chosen(model, sufficient), limit)
            best = (
                self._in_free_memory(options)
                or self._quietly(enough)
                or self._with_evictions([*options, *enough], may_evict)
            )
            if best is not None and best.evicts:
                as_preferred = self._with_evictions(preferred, may_evict)
                if as_preferred is not None and as_preferred.cost <= best.cost:
                    best = as_preferred
            if best is not None:
                return best
        return None

    def find_free(self, model: Model, *, limit: int | None = None) -> Placement | None:
        """Return where ``model`` fits with the requested settings and without evictions."""
        self._subject = model.name
        return self._in_free_memory(self._within_limit(self._options(model, smaller=False), limit))

    def fits_empty_devices(self, model: Model) -> bool:
        """Whether ``model`` would fit alone, with smaller settings if need be."""
        known = self._sized.get((model.name, False))
        if known:
            return True
        return any(
            True
            for smaller in (False, True)
            for _ in self._sizer.options(model, self._fleet, self._policy, smaller=smaller)
        )

    def refusals(self, model: Model) -> list[str]:
        """Return why nodes do not take ``model`` now."""
        return self._sites.refusals(model)

    def record_refusals(self, model: Model) -> None:
        """Add the nodes that do not take ``model`` now to the candidates, with their reasons."""
        for why in self.refusals(model):
            self.candidates.append(Candidate(model=model.name, lost=why))

    def record_winner(self, place: Placement) -> None:
        """Add ``place`` to the candidates as the one that was taken."""
        self.candidates.append(
            Candidate(
                model=self._subject,
                runtime=place.option.runtime,
                devices=place.devices,
                evicts=place.evicts,
                score=-place.loss,
            )
        )

    def _on_its_spot(
        self, model: Model, preferred: Sequence[LoadOption], limit: int | None
    ) -> Placement | None:
        """Return the placement that advice names; ``None`` where there is none, or no room."""
        spot = self._spots.get(model.name)
        if spot is None or model.state is ModelState.SLEEPING:
            return None
        able = self._within_limit(self._options(model, smaller=False), limit)
        options = [
            replace(option, group=option.group.part(devices))
            for option in (*preferred, *able)
            if option.parts == 1 and option.settings.tensor_parallel_size == len(spot.devices)
            for devices in [tuple(d for d in option.group.devices if d.id in spot.devices)]
            if len(devices) == len(spot.devices)
        ]
        for option in options:
            place = self._placer.in_free_memory(option) or self._placer.with_evictions(
                option, lambda victim: victim.name in spot.evicts
            )
            if place is not None:
                return self._timed(place)
        return None

    def _preferred(self, model: Model) -> list[LoadOption]:
        """Return the options that follow the model's preference; none for a sleeping model."""
        if model.preference is None or model.state is ModelState.SLEEPING:
            return []
        found = self._sizer.preferred(model, model.preference, self._fleet, self._policy)
        return list(self._open(model, found))

    def _roomier(self, model: Model) -> list[LoadOption]:
        """Return the options with more than the requested settings, in the best runtime."""
        if any(name != model.name for name in self._queued):
            return []
        found = self._chosen(model, roomier)
        if not found:
            return []
        first = next((o.runtime for o in self._options(model, smaller=False)), None)
        return [option for option in found if option.runtime is first]

    def _chosen(self, model: Model, choose: Choose) -> list[LoadOption]:
        """Return the options that ``choose`` suggests; none for a sleeping model."""
        if model.state is ModelState.SLEEPING:
            return []
        return list(self._open(model, self._sizer.chosen(model, self._fleet, self._policy, choose)))

    def _quietly(self, options: Iterable[LoadOption]) -> Placement | None:
        """Return what `_in_free_memory` does, without a record of what lost: it is an extra."""
        kept, self.candidates = self.candidates, []
        best = self._in_free_memory(options)
        self.candidates = kept
        return best

    def _sizes(self, model: Model, *, smaller: bool) -> list[LoadOption]:
        """Return the options on empty devices, those of closed nodes included."""
        key = model.name, smaller
        found = self._sized.get(key)
        if found is None:
            options = self._sizer.options(model, self._fleet, self._policy, smaller=smaller)
            found = self._sized[key] = list(options)
        return found

    def _open(self, model: Model, options: Iterable[LoadOption]) -> Iterator[LoadOption]:
        """Yield ``options`` on the devices that may be used for ``model`` now.

        Those on nodes with its files come as options of their own, before all.
        """
        for option in options:
            for group in self._sites.parts(model, option.runtime, option.group):
                yield option if group is option.group else replace(option, group=group)

    def _options(self, model: Model, *, smaller: bool) -> list[LoadOption]:
        options = self._sizes(model, smaller=smaller)
        held = model.deployment
        if model.state is not ModelState.SLEEPING or held is None:
            return list(self._open(model, options))
        if not self._sites.wakes(model, held):
            return []
        # A sleeping model wakes on its own devices with its own settings.
        return [
            replace(
                option,
                settings=held.settings,
                chosen="",
                group=option.group.part(d for d in option.group.devices if d.id in held.devices),
            )
            for option in options
            if option.runtime is held.runtime
            and option.settings.tensor_parallel_size == len(held.devices)
            and {d.id for d in option.group.devices} >= set(held.devices)
        ]

    def _within_limit(self, options: list[LoadOption], limit: int | None) -> list[LoadOption]:
        """Return the options that take at most ``limit`` bytes on all devices."""
        if limit is None:
            return options
        found = []
        for option in options:
            if _total(option) <= limit:
                found.append(option)
            else:
                self._record_loser(option, "more than is left of its team's memory quota")
        return found

    def _timed(self, place: Placement) -> Placement:
        """Return ``place`` with the seconds that the transfer of its files takes."""
        model = self._fleet.models_by_name.get(self._subject)
        seconds = self._sites.fetch_s(model, place.devices) if model is not None else 0.0
        return replace(place, fetch_s=seconds) if seconds else place

    def _in_free_memory(self, options: Iterable[LoadOption]) -> Placement | None:
        """Take the first runtime, device kind and degree that fit; then the tightest settings."""
        best: Placement | None = None
        for option in options:
            if best is not None and _kind(option) != _kind(best.option):
                continue
            place = self._placer.in_free_memory(option)
            if place is None:
                self._record_loser(option, "no device has that much free memory")
                continue
            place = self._timed(place)
            if best is None or place.rank < best.rank:
                best = place
        return best

    def _with_evictions(
        self, options: Iterable[LoadOption], may_evict: MayEvict
    ) -> Placement | None:
        """Take the option whose evictions cost least."""
        best: Placement | None = None
        for option in options:
            place = self._placer.with_evictions(option, may_evict)
            if place is None:
                self._record_loser(
                    option, "evicting all that may be evicted does not free that much"
                )
                continue
            place = self._timed(place)
            if best is None or place.cost < best.cost:
                best = place
            else:
                self._record_loser(option, "another option's evictions cost less", place)
        return best

    def _record_loser(self, option: LoadOption, why: str, place: Placement | None = None) -> None:
        if len(self.candidates) < CANDIDATES_KEPT:
            self.candidates.append(
                Candidate(
                    model=self._subject,
                    runtime=option.runtime,
                    devices=place.devices if place else _some(option.group),
                    evicts=place.evicts if place else (),
                    score=-place.loss if place else None,
                    lost=f"{option.reserve / GIB:.2f} GiB per device: {why}",
                )
            )


def _some(group: DeviceGroup) -> tuple[str, ...]:
    """Return the devices of ``group``, of many the first ones."""
    return tuple(device.id for device in group.devices[:DEVICES_NAMED])


def _total(option: LoadOption) -> int:
    return option.reserve * option.settings.tensor_parallel_size * option.parts


def _kind(option: LoadOption) -> tuple[str, str, int]:
    return (option.runtime, option.group.kind, option.settings.tensor_parallel_size)
