"""The devices on which a model could be loaded now, with the planner's costs (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from agents.llm.choices import Planner
from agents.llm.departing import affordable, departures
from agents.llm.holes import Holes
from agents.llm.what_if import emptied, own_action, unloads
from modelium.lifecycle import ModelState
from modelium.models import GIB, Departure, Device, Fleet, Load, Model, Plan
from modelium.models.advice import Advice, Spot
from modelium.models.load_time import fetch_seconds, load_seconds
from modelium.policy import Policy
from modelium.policy.node_rules import refusal
from modelium.ports import Question

MOST_PLACES = 6
"""Placements offered per model: each costs two trial plans, and more are not compared well."""

BESIDE = 8
"""Neighbours shown."""

TRIED = 12
"""Groups of devices tried per model, those with the most room first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One placement that may be chosen."""

    label: str
    """``n/g0``, ``n/g0+n/g1``, ``n/g1 evicting b``."""
    model: str
    spot: Spot
    load: Load
    departures: tuple[Departure, ...]
    """Empty: it is what the rules do."""
    hole: int
    """Bytes of the largest free hole that it leaves."""
    evicted_load_s: float
    """Load-seconds of the models that are evicted for it and by the rules are not."""
    beside: tuple[str, ...] = ()
    """Models that stay on the same devices."""
    fetch_s: float = 0.0
    """Seconds until the files are there."""
    utilization: float | None = None
    """Of the busiest of the devices, 0…1; ``None``: not known."""

    def facts(self) -> dict[str, Any]:
        """Return its costs as JSON values."""
        return {
            "placement": self.label,
            "runtime": self.load.runtime.value,
            "gib_per_device": round(max(self.load.reserve.values()) / GIB, 1),
            "evicts": list(self.spot.evicts),
            "evicted_load_seconds": round(self.evicted_load_s),
            "largest_hole_left_gib": round(self.hole / GIB, 1),
            "beside": list(self.beside[:BESIDE]),
            **({"files_arrive_in_s": round(self.fetch_s)} if self.fetch_s else {}),
            **({} if self.utilization is None else {"gpu_utilization": self.utilization}),
            "gives_up_load_seconds": round(sum(d.price_s for d in self.departures)),
            "by": "LLM" if self.departures else "rules",
        }


class Placements:
    """Tries placements by trial plans. One per question."""

    def __init__(
        self, *, question: Question, fleet: Fleet, policy: Policy, rules: Plan, planner: Planner
    ) -> None:
        """``rules``: the plan without advice."""
        self._question = question
        self._fleet = fleet
        self._policy = policy
        self._rules = rules
        self._planner = planner
        self._now = question.now or fleet.at
        self._evictable = tuple(
            m.name for m in fleet.models if m.state is ModelState.READY and m.deployment is not None
        )

    def of(self, model: Model, *, evicting: bool = True) -> list[Place]:
        """Return the affordable placements of ``model``, that of the rules first.

        ``evicting``: with those that need more evictions than the rules make.
        """
        own = own_action(self._rules, model.name)
        found = [self._place(model, own, self._rules)] if isinstance(own, Load) else []
        degree = len(own.devices) if isinstance(own, Load) else self._degree(model)
        if not degree:
            return found
        for devices in list(self._groups(model, degree))[:TRIED]:
            if isinstance(own, Load) and set(own.devices) == set(devices):
                continue
            place = self._try(model, devices, evicting=evicting)
            if place is not None:
                found.append(place)
        found[1:] = sorted(found[1:], key=lambda p: (len(p.spot.evicts), p.evicted_load_s))
        return found[:MOST_PLACES]

    def _try(self, model: Model, devices: tuple[str, ...], *, evicting: bool) -> Place | None:
        for evicts in ((), self._evictable) if evicting else ((),):
            plan = self._plan(model, Spot(devices=devices, evicts=evicts))
            load = own_action(plan, model.name)
            if not isinstance(load, Load) or set(load.devices) != set(devices):
                continue
            place = self._place(model, load, plan)
            # Once more with what is offered: the price is that of exactly these evictions.
            exact = self._advice(model, place.spot)
            wanted = departures(
                self._rules,
                self._plan(model, place.spot),
                exact,
                fleet=self._fleet,
                policy=self._policy,
                now=self._now,
            )
            if wanted and affordable(wanted, self._fleet, self._policy, now=self._now):
                return replace(place, departures=wanted)
        return None

    def _place(self, model: Model, load: Load, plan: Plan) -> Place:
        victims = tuple(sorted(unloads(plan) - unloads(self._rules)))
        label = "+".join(load.devices)
        if victims:
            label += f" evicting {','.join(victims)}"
        fleet, models = self._fleet, self._fleet.models_by_name
        devices = [fleet.devices_by_id[d] for d in load.devices]
        held = {b.model for d in devices for b in fleet.bookings_by_device.get(d.id, ())}
        return Place(
            label=label,
            model=model.name,
            spot=Spot(devices=load.devices, evicts=victims),
            load=load,
            departures=(),
            hole=Holes(plan=plan, fleet=self._fleet, policy=self._policy).largest,
            evicted_load_s=sum(load_seconds(models[v]) for v in victims),
            beside=tuple(sorted(held - unloads(plan) - {model.name})),
            fetch_s=max((fetch_seconds(model, d.node, fleet) for d in devices), default=0.0),
            utilization=max(
                (d.utilization for d in devices if d.utilization is not None), default=None
            ),
        )

    def _plan(self, model: Model, spot: Spot) -> Plan:
        return self._planner(self._question, self._fleet, self._policy, self._advice(model, spot))

    @staticmethod
    def _advice(model: Model, spot: Spot) -> Advice:
        ahead = (model.name,) if model.state is ModelState.UNLOADED else ()
        return Advice(spots={model.name: spot}, prewarm=ahead)

    def _degree(self, model: Model) -> int:
        """Return over how many devices ``model`` would be split alone; 0 where it fits nowhere."""
        alone = emptied(self._fleet, model)
        ahead = (model.name,) if model.state is ModelState.UNLOADED else ()
        plan = self._planner(self._question, alone, self._policy, Advice(prewarm=ahead))
        load = own_action(plan, model.name)
        return len(load.devices) if isinstance(load, Load) else 0

    def _groups(self, model: Model, degree: int) -> Iterator[tuple[str, ...]]:
        """Yield sets of ``degree`` devices that are alike, those with the most room first."""
        fleet, policy = self._fleet, self._policy
        nodes = {
            name
            for name in {device.node for device in fleet.devices}
            if refusal(model, name, fleet, policy) is None
        }
        able = sorted(
            (d for d in fleet.devices if d.healthy and d.node in nodes),
            key=lambda d: (-d.free_bytes, d.id),
        )
        if degree == 1:
            yield from ((d.id,) for d in able)
            return
        alike: dict[tuple[str, str], list[Device]] = {}
        for device in able:
            alike.setdefault((device.node, device.name), []).append(device)
        for devices in alike.values():
            ordered = sorted(devices, key=lambda d: d.index)
            for start in range(len(ordered) - degree + 1):
                yield tuple(d.id for d in ordered[start : start + degree])
