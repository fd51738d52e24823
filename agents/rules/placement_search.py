"""Which of a model's load options is taken, and where: the search over options and devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from agents.rules.placement import MayEvict, Placement, Placer
from agents.rules.sizing import LoadOption, Sizer
from modelium.lifecycle import ModelState
from modelium.models import GIB, Candidate, Fleet, Model
from modelium.models.advice import Spot
from modelium.policy import Policy

NO_SPOTS: Mapping[str, Spot] = MappingProxyType({})

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

    def find(self, model: Model, may_evict: MayEvict) -> Placement | None:
        """Return where to load ``model``; ``None`` where there is no room.

        Tried in this order: the advised devices, the model's preference in free memory, the
        requested settings in free memory, the requested settings with evictions (the preference
        instead, where its evictions cost no more), smaller settings in free memory, smaller
        settings with evictions.
        """
        self._subject = model.name
        preferred = self._preferred(model)
        advised = self._on_its_spot(model, preferred)
        if advised is not None:
            return advised
        best = self._in_free_memory(preferred)
        if best is not None:
            return best
        for smaller in (False, True):
            options = [o for o in self._options(model, smaller=smaller) if self._healthy(o)]
            best = self._in_free_memory(options) or self._with_evictions(options, may_evict)
            if best is not None and best.evicts:
                as_preferred = self._with_evictions(preferred, may_evict)
                if as_preferred is not None and as_preferred.loss <= best.loss:
                    best = as_preferred
            if best is not None:
                return best
        return None

    def find_free(self, model: Model) -> Placement | None:
        """Return where ``model`` fits with the requested settings and without evictions."""
        self._subject = model.name
        return self._in_free_memory(self._options(model, smaller=False))

    def fits_empty_devices(self, model: Model) -> bool:
        """Whether ``model`` would fit alone, with smaller settings if need be."""
        return any(
            True
            for smaller in (False, True)
            for _ in self._sizer.options(model, self._fleet, self._policy, smaller=smaller)
        )

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

    def _on_its_spot(self, model: Model, preferred: Sequence[LoadOption]) -> Placement | None:
        """Return the placement that advice names; ``None`` where there is none, or no room."""
        spot = self._spots.get(model.name)
        if spot is None or model.state is ModelState.SLEEPING:
            return None
        able = [o for o in self._options(model, smaller=False) if self._healthy(o)]
        options = [
            replace(option, group=replace(option.group, devices=devices))
            for option in (*preferred, *able)
            if option.settings.tensor_parallel_size == len(spot.devices)
            for devices in [tuple(d for d in option.group.devices if d.id in spot.devices)]
            if len(devices) == len(spot.devices)
        ]
        for option in options:
            place = self._placer.in_free_memory(option) or self._placer.with_evictions(
                option, lambda victim: victim.name in spot.evicts
            )
            if place is not None:
                return place
        return None

    def _preferred(self, model: Model) -> list[LoadOption]:
        """Return the options that follow the model's preference; none for a sleeping model."""
        if model.preference is None or model.state is ModelState.SLEEPING:
            return []
        found = self._sizer.preferred(model, model.preference, self._fleet, self._policy)
        return [o for o in found if self._healthy(o)]

    def _options(self, model: Model, *, smaller: bool) -> list[LoadOption]:
        options = list(self._sizer.options(model, self._fleet, self._policy, smaller=smaller))
        held = model.deployment
        if model.state is not ModelState.SLEEPING or held is None:
            return options
        # A sleeping model wakes on its own devices with its own settings.
        return [
            replace(
                option,
                settings=held.settings,
                group=replace(
                    option.group,
                    devices=tuple(d for d in option.group.devices if d.id in held.devices),
                ),
            )
            for option in options
            if option.runtime is held.runtime
            and option.settings.tensor_parallel_size == len(held.devices)
            and {d.id for d in option.group.devices} >= set(held.devices)
        ]

    def _healthy(self, option: LoadOption) -> bool:
        return self._fleet.runtimes_by_name[option.runtime].healthy

    def _in_free_memory(self, options: Iterable[LoadOption]) -> Placement | None:
        """Take the first runtime, device kind and degree that fit; then the tightest settings."""
        best: Placement | None = None
        for option in options:
            if best is not None and _kind(option) != _kind(best.option):
                continue
            place = self._placer.in_free_memory(option)
            if place is None:
                self._record_loser(option, "no device has that much free memory")
            elif best is None or place.left < best.left:
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
            elif best is None or place.loss < best.loss:
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
                    devices=place.devices if place else tuple(d.id for d in option.group.devices),
                    evicts=place.evicts if place else (),
                    score=-place.loss if place else None,
                    lost=f"{option.reserve / GIB:.2f} GiB per device: {why}",
                )
            )


def _kind(option: LoadOption) -> tuple[str, str, int]:
    return (option.runtime, option.group.kind, option.settings.tensor_parallel_size)
