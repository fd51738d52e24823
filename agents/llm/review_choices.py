"""The choices in a review of the whole fleet (pure).

The order of the queue within a class, which of the models of about the same value to keep or evict,
and which models to prewarm into free memory; where the operator allows departures, those of
`agents.llm.review_departures` too. The rules alone handle memory pressure, pins and requests that
wait.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agents.llm.choices import Field, Planner
from agents.llm.departing import paid
from agents.llm.facts import SOON_S, local_time, model_facts
from agents.llm.review_departures import ReviewDepartures, review_departures
from agents.llm.untrusted import printable, wrapped
from agents.llm.what_if import own_action, unloads
from agents.rules.device_memory import DeviceMemory
from agents.rules.keep_value import arrival_chance, keep_value
from agents.rules.ranking import rank, waiting_s
from modelium.lifecycle import ModelState
from modelium.models import GIB, DepartureKind, Fleet, Load, Model, Plan, Unload, Violation
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.policy.eligibility import over_cap, should_load, should_unload
from modelium.ports import Question

SHOWN = 12
"""Models per list, the first by the rules' score."""

PREWARMS = 2
"""Most models to prewarm: as many as the rules prewarm per plan."""

PRICED = frozenset({DepartureKind.EVICT, DepartureKind.SPARE, DepartureKind.DEVICE})

CARD_CHARACTERS = 300
"""Longest part shown of each model's card."""


class ReviewChoices:
    """`choices.Choices` for the whole fleet."""

    def __init__(
        self,
        *,
        question: Question,
        fleet: Fleet,
        policy: Policy,
        rules: Plan,
        now: float,
        queued: Sequence[Model],
        idle: Sequence[Model],
        warm: Sequence[Model],
        departing: ReviewDepartures,
    ) -> None:
        """Use `review_choices`."""
        self.question = question
        self.fleet = fleet
        self.policy = policy
        self.rules = rules
        self._now = now
        self._queued = queued
        self._idle = idle
        self._warm = warm
        self._departing = departing

    @property
    def fields(self) -> Sequence[Field]:
        """Return the lists of models to choose from, without empty ones."""
        queued, idle, warm = (
            tuple(m.name for m in models) for models in (self._queued, self._idle, self._warm)
        )
        found = []
        if queued:
            meaning = "Queued models in the order to load them; a class is never passed."
            found.append(
                Field(name="order", allowed=queued, many=True, most=SHOWN, meaning=meaning)
            )
        if idle:
            meaning = "Loaded models to spare, where others are worth about as little."
            found.append(Field(name="keep", allowed=idle, many=True, most=SHOWN, meaning=meaning))
            meaning = "Loaded models to go first, if room is needed. Not also in keep."
            found.append(Field(name="evict", allowed=idle, many=True, most=SHOWN, meaning=meaning))
        if warm:
            meaning = "Unloaded models to load ahead of requests, into free memory."
            found.append(
                Field(name="prewarm", allowed=warm, many=True, most=PREWARMS, meaning=meaning)
            )
        return [*found, *self._departing.fields()]

    def facts(self) -> dict[str, Any]:
        """Return the lists, each model with what is known of it."""
        return {
            "now": local_time(self._now, self.policy),
            "rules_would": [f"{a.action} {a.model}" for a in self.rules.actions][:SHOWN],
            "queued": [
                {**self._one(m), "waited_s": round(waiting_s(m, now=self._now))}
                for m in self._queued
            ],
            "loaded_and_idle": [
                {**self._one(m), "idle_s": round(m.idle_s(self._now))} for m in self._idle
            ],
            "unloaded_that_fit": [self._one(m) for m in self._warm],
            **self._others(),
            **self._departing.facts(),
        }

    def _others(self) -> dict[str, Any]:
        """Return what is known of models that only a departure is about; empty without one."""
        shown = {m.name for m in (*self._queued, *self._idle, *self._warm)}
        rest = [m for m in self._departing.models(self.fleet) if m.name not in shown]
        return {"others": [self._one(m) for m in rest]} if rest else {}

    def card(self) -> str:
        """Return the start of each listed model's card, marked as untrusted."""
        lines = []
        listed = (*self._queued, *self._idle, *self._warm, *self._departing.models(self.fleet))
        for model in {m.name: m for m in listed}.values():
            card = model.profile.card if model.profile else None
            if card and card.text.strip():
                text = " ".join(printable(card.text, limit=CARD_CHARACTERS).split())
                lines.append(f"{model.name}: {text}")
        if not lines:
            return ""
        whole = "\n".join(lines)
        return wrapped(whole, source="the models' cards", limit=len(whole))

    def advice(self, chosen: Mapping[str, Any]) -> Advice:
        """Return the advice in a checked answer."""
        keep = tuple(chosen.get("keep", ()))
        departing = self._departing.advice(chosen)
        ahead = [n for n in departing.pop("ahead") if n not in chosen.get("prewarm", ())]
        absent = [n for n in ahead if self._is_unloaded(n)]
        return Advice(
            **departing,
            order=tuple(chosen.get("order", ())),
            keep=keep,
            evict=tuple(name for name in chosen.get("evict", ()) if name not in keep),
            prewarm=(*absent, *chosen.get("prewarm", ())),
            reason=chosen.get("reason", ""),
        )

    def _is_unloaded(self, name: str) -> bool:
        return self.fleet.models_by_name[name].state is ModelState.UNLOADED

    def objections(self, advice: Advice, plan: Plan) -> list[Violation]:
        """Compare ``plan`` with the advice and with the plan of the rules."""
        found = []
        for name in advice.prewarm:
            if not isinstance(own_action(plan, name), Load):
                text = f"{name}: there is no free memory for it"
                found.append(Violation(rule="does-not-fit", subject=name, message=text))
        for name, spot in advice.spots.items():
            load = own_action(plan, name)
            if not (isinstance(load, Load) and set(load.devices) == set(spot.devices)):
                text = (
                    f"{name}: it does not fit on {', '.join(spot.devices)} together with the rest"
                )
                found.append(Violation(rule="does-not-fit", subject=name, message=text))
        for name in sorted(set(advice.spare) & unloads(plan)):
            text = f"{name}: requests need its memory; it cannot be spared"
            found.append(Violation(rule="does-not-fit", subject=name, message=text))
        missing = sorted(self._urgent(self.rules) - self._urgent(plan))
        if missing:
            found.append(_worse(f"{', '.join(missing)} would wait longer"))
        then, now = (Counter(type(a) for a in p.actions) for p in (self.rules, plan))
        declared = {d.kind for d in plan.departures}
        waits = sum(d.kind is DepartureKind.QUEUE for d in plan.departures)
        # What the others lose is in the price of the departures of these kinds.
        if now[Load] + waits < then[Load] and not declared & PRICED:
            found.append(_worse(f"{now[Load]} models would be loaded; the rules load {then[Load]}"))
        if now[Unload] - len(paid(plan)) > then[Unload]:
            more = ", ".join(sorted(unloads(plan) - unloads(self.rules) - paid(plan)))
            found.append(_worse(f"{more} would be evicted; the rules would not"))
        return found

    def _urgent(self, plan: Plan) -> set[str]:
        models = self.fleet.models_by_name
        return {
            a.model
            for a in plan.actions
            if isinstance(a, Load)
            and (should_load(models[a.model], self.policy) or a.model in self.policy.always_loaded)
        }

    def _one(self, model: Model) -> dict[str, Any]:
        profile = model.profile
        return {
            "model": model.name,
            "gib": round(profile.weight_bytes / GIB, 1) if profile else None,
            **model_facts(model, self.policy, self._now),
        }


def review_choices(
    *, question: Question, fleet: Fleet, policy: Policy, rules: Plan, planner: Planner
) -> ReviewChoices | None:
    """Return the choices now; ``None`` where there are none."""
    now = question.now or fleet.at

    def value(model: Model) -> float:
        return keep_value(model, now=now)

    memory = DeviceMemory(fleet=fleet, policy=policy, now=now, value=value)
    settled = {a.model for a in rules.actions}
    queued = [m for m in fleet.models if m.state is ModelState.QUEUED and m.profile is not None]
    queued.sort(key=lambda m: rank(m, policy, now=now, value=value(m)))
    idle = [
        m
        for m in fleet.models
        if not memory.unevictable_because(m) and not should_unload(m, policy, now=now)
    ]
    idle.sort(key=value)
    crowded = bool(queued) or any(over_cap(d, policy) for d in fleet.devices)
    unloaded = [m for m in fleet.models if m.state is ModelState.UNLOADED and m.name not in settled]
    unloaded.sort(key=lambda m: -arrival_chance(m.traffic, now=now, within_s=SOON_S))
    warm = []
    # Each trial makes a whole plan, so only models that could fit are tried.
    room = max((memory.room(d.id) for d in fleet.devices), default=0)
    for model in [m for m in unloaded if _least_bytes(m) <= room][:SHOWN]:
        plan = planner(question, fleet, policy, Advice(prewarm=(model.name,)))
        if isinstance(own_action(plan, model.name), Load):
            warm.append(model)
    choices = ReviewChoices(
        question=question,
        fleet=fleet,
        policy=policy,
        rules=rules,
        now=now,
        queued=queued[:SHOWN] if len(queued) > 1 else (),
        idle=idle[:SHOWN] if crowded and len(idle) > 1 else (),
        warm=warm,
        departing=review_departures(
            question=question, fleet=fleet, policy=policy, rules=rules, planner=planner
        ),
    )
    return choices if choices.fields else None


def _least_bytes(model: Model) -> float:
    """Return the least bytes that one device needs; infinite for a model without a profile."""
    profile = model.profile
    if profile is None:
        return math.inf
    # Half, because float32 weights may be loaded as float16.
    return profile.weight_bytes / max(profile.tensor_parallel_degrees) / 2


def _worse(text: str) -> Violation:
    return Violation(rule="worse", subject="fleet", message=text)
