"""The choices in a review by which an LLM departs from the rules, where it may (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.llm.choices import Field, Planner
from agents.llm.departing import affordable, budgets, departures, may_be_held, waiting
from agents.llm.placements import Place, Placements
from agents.llm.what_if import unloads
from agents.rules.keep_value import arrival_chance
from agents.rules.ranking import is_starving
from modelium.lifecycle import ModelState
from modelium.models import Departure, EvictionCause, Fleet, Model, Plan
from modelium.models.advice import Advice, Spot
from modelium.models.load_time import load_seconds
from modelium.policy import Policy
from modelium.policy.eligibility import should_load, should_unload
from modelium.ports import Question

TRIED = 4
"""Models for which placements are tried: each costs up to a dozen trial plans."""

SHOWN = 12
MOST = 3
"""Most of one kind of departure in a review: the next one is minutes away."""

SOON_S = 600.0
"""Two reviews at the usual interval: one may fail."""

FORECAST_S = 3600.0

LEAVES = frozenset({EvictionCause.IDLE, EvictionCause.SPACE})
"""Causes of unloads that may be spared."""


@dataclass(kw_only=True, slots=True)
class ReviewDepartures:
    """What may be chosen otherwise than by the rules; all empty where nothing may."""

    budgets: Mapping[str, float] = field(default_factory=dict)
    hold: Mapping[str, Departure] = field(default_factory=dict)
    spare: Mapping[str, float] = field(default_factory=dict)
    """Model → load-seconds that sparing it gives up."""
    place: Mapping[str, Place] = field(default_factory=dict)
    """``MODEL on DEVICES`` → other devices for a load of the rules."""
    make_room: Mapping[str, Place] = field(default_factory=dict)
    """``MODEL on DEVICES evicting MODELS`` → a load that the rules do not make."""

    def fields(self) -> list[Field]:
        """Return the lists to choose from, without empty ones."""
        meanings = (
            ("hold", self.hold, "Queued models that the rules load now: leave them queued."),
            (
                "spare",
                self.spare,
                "Loaded models that idle out now or soon, or make room: let them stay.",
            ),
            ("place", self.place, "Other devices for models that the rules load now."),
            ("make_room", self.make_room, "Loads that the rules do not make, with evictions."),
        )
        return [
            Field(name=name, allowed=tuple(allowed), many=True, most=MOST, meaning=meaning)
            for name, allowed, meaning in meanings
            if allowed
        ]

    def models(self, fleet: Fleet) -> list[Model]:
        """Return the models that departures are about, and those that would be evicted."""
        names = [*self.hold, *self.spare]
        for place in (*self.place.values(), *self.make_room.values()):
            names += [place.model, *place.spot.evicts]
        return [fleet.models_by_name[name] for name in dict.fromkeys(names)]

    def facts(self) -> dict[str, Any]:
        """Return the cost of each departure, and what may be spent; empty where nothing may."""
        if not self.budgets:
            return {}
        return {
            "load_seconds_you_may_give_up": dict(self.budgets),
            "cost_of_hold": {name: round(d.price_s) for name, d in self.hold.items()},
            "cost_of_spare": {name: round(price) for name, price in self.spare.items()},
            "cost_of_place": [{"model": p.model, **p.facts()} for p in self.place.values()],
            "cost_of_make_room": [{"model": p.model, **p.facts()} for p in self.make_room.values()],
        }

    def advice(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of `Advice` in a checked answer; one placement per model, the first."""
        spots: dict[str, Spot] = {}
        ahead = []
        for label in (*chosen.get("place", ()), *chosen.get("make_room", ())):
            place = self.place.get(label) or self.make_room[label]
            if place.model not in spots:
                spots[place.model] = place.spot
                ahead.append(place.model)
        return {
            "hold": tuple(chosen.get("hold", ())),
            "spare": tuple(chosen.get("spare", ())),
            "spots": spots,
            "ahead": tuple(ahead),
        }


def review_departures(
    *, question: Question, fleet: Fleet, policy: Policy, rules: Plan, planner: Planner
) -> ReviewDepartures:
    """Return the departures that are possible and affordable now, each by itself."""
    if not policy.departures:
        return ReviewDepartures()
    now = question.now or fleet.at
    models = fleet.models_by_name
    loads = [models[a.model] for a in rules.loads]
    free = [m for m in loads if may_be_held(m, policy) and not is_starving(m, now=now)]
    hold = {m.name: waiting(m, now=now) for m in free if m.state is ModelState.QUEUED}
    hold = {
        name: departure
        for name, departure in hold.items()
        if affordable((departure,), fleet, policy, now=now)
    }
    spare: dict[str, float] = {}
    leaving = [a.model for a in rules.unloads if a.cause in LEAVES]
    for name in [*leaving, *_idle_soon(fleet, policy, rules, now)][:SHOWN]:
        advice = Advice(spare=(name,))
        plan = planner(question, fleet, policy, advice)
        found = departures(rules, plan, advice, fleet=fleet, policy=policy, now=now)
        if name not in unloads(plan) and affordable(found, fleet, policy, now=now):
            spare[name] = sum(d.price_s for d in found)
    placements = Placements(
        question=question, fleet=fleet, policy=policy, rules=rules, planner=planner
    )
    place = {
        f"{model.name} on {found.label}": found
        for model in free[:TRIED]
        for found in placements.of(model, evicting=False)
        if found.departures
    }
    make_room = {
        f"{model.name} on {found.label}": found
        for model in _absent(fleet, policy, rules, now)[:TRIED]
        for found in placements.of(model)
        if found.departures
    }
    return ReviewDepartures(
        budgets=budgets(fleet, policy, now=now),
        hold=dict(list(hold.items())[:SHOWN]),
        spare=spare,
        place=dict(list(place.items())[:SHOWN]),
        make_room=dict(list(make_room.items())[:SHOWN]),
    )


def _idle_soon(fleet: Fleet, policy: Policy, rules: Plan, now: float) -> list[str]:
    """Return the loaded models that will be unloaded for idling before the next review.

    They are gone a few seconds after that time has come, and no review would have seen them.
    """
    return [
        m.name
        for m in fleet.models
        if m.state is ModelState.READY
        and m.name not in unloads(rules)
        and should_unload(m, policy, now=now + SOON_S)
    ]


def _absent(fleet: Fleet, policy: Policy, rules: Plan, now: float) -> Sequence[Model]:
    """Return the models that the rules leave waiting or unloaded: queued ones, then likely ones."""
    acted_on = {a.model for a in rules.loads}
    queued = [m for m in fleet.models if m.state is ModelState.QUEUED]
    unloaded = [m for m in fleet.models if m.state is ModelState.UNLOADED]
    queued.sort(key=lambda m: (m.priority.rank, m.queued_at or 0.0, m.name))
    unloaded.sort(
        key=lambda m: (
            -arrival_chance(m.traffic, now=now, within_s=FORECAST_S),
            -(m.traffic.last_request_at or 0.0),
            -load_seconds(m),
            m.name,
        )
    )
    return [
        m
        for m in (*queued, *unloaded)
        if m.name not in acted_on and m.profile is not None and not should_load(m, policy)
    ]
