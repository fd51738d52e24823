"""The choices for a new model: runtime, settings, priority class, devices (pure).

Settings are never below those of the rules, and they need no more evictions. Where the operator
allows departures, a placement may be chosen as well: other devices, with evictions, or the queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.llm.choices import Field, Planner, open_fields
from agents.llm.departing import affordable, budgets, may_be_held, paid, waiting
from agents.llm.facts import action_facts, local_time
from agents.llm.load_choices import WITH_CONTEXT, LoadChoices, load_choices
from agents.llm.owner_facts import owner_wishes, owner_words
from agents.llm.placements import Place, Placements
from agents.llm.untrusted import word, wrapped
from agents.llm.what_if import WhatIf, emptied, follows, own_action, unloads
from agents.rules.ranking import priority_class
from modelium.models import (
    GIB,
    Fleet,
    Load,
    LoadSettings,
    Model,
    ModelProfile,
    Plan,
    Preference,
    Priority,
    Queue,
    RuntimeName,
    Violation,
)
from modelium.models.advice import Advice
from modelium.models.load_time import load_seconds
from modelium.policy import Policy
from modelium.ports import Question

WAIT = "queue"
"""The placement of a model that is not loaded now."""

R = RuntimeName


class IngestChoices:
    """`choices.Choices` for one new model."""

    def __init__(
        self,
        *,
        question: Question,
        fleet: Fleet,
        policy: Policy,
        rules: Plan,
        model: Model,
        profile: ModelProfile,
        load: LoadChoices,
        places: Sequence[Place] = (),
        may_wait: bool = False,
    ) -> None:
        """Use `ingest_choices`."""
        self.question = question
        self.fleet = fleet
        self.policy = policy
        self.rules = rules
        self._model = model
        self._profile = profile
        self._load = load
        self._places = {place.label: place for place in places}
        self._may_wait = may_wait
        self._own = own_action(rules, model.name)
        self._class = priority_class(model, policy)
        ceiling = model.priority_ceiling
        self._classes = tuple(p for p in Priority if ceiling.rank <= p.rank <= self._class.rank)

    @property
    def fields(self) -> Sequence[Field]:
        """Return runtime, settings and class, where they have legal values."""
        load = self._own if isinstance(self._own, Load) else None
        queued = load is None or self._may_wait
        found = [
            Field(
                name="placement",
                allowed=(*self._places, *((WAIT,) if queued and self._places else ())),
                default=next(iter(self._places)) if load and self._places else WAIT,
                meaning="The devices to load it on now, or `queue`: it waits.",
            ),
            Field(
                name="runtime",
                allowed=tuple(each.runtime.value for each in self._load.runtimes),
                default=load.runtime.value if load else self._load.runtimes[0].runtime.value,
                meaning="The serving runtime.",
            ),
            Field(
                name="max_model_len",
                allowed=self._load.settings.get("max_model_len", ()),
                meaning="Context in tokens; longer takes more memory.",
            ),
            Field(
                name="max_num_seqs",
                allowed=self._load.settings.get("max_num_seqs", ()),
                meaning="Requests at once.",
            ),
            Field(
                name="tensor_parallel_size",
                allowed=self._load.settings.get("tensor_parallel_size", ()),
                meaning="GPUs to split it over; vllm alone.",
            ),
            Field(
                name="dtype",
                allowed=self._load.dtypes,
                meaning="`auto` is the model's own; vllm alone.",
            ),
            Field(
                name="priority",
                allowed=tuple(p.value for p in self._classes),
                default=self._class.value,
                meaning="high: production; medium: important; low: experimental. "
                "At most what the operator allows.",
            ),
        ]
        return [f for f in found if f.allowed]

    def facts(self) -> dict[str, Any]:
        """Return the model, the action of the rules, and the memory that each runtime needs."""
        profile, model = self._profile, self._model
        return {
            "model": model.name,
            "team": model.team,
            "owner_wishes": owner_wishes(model),
            "format": profile.format.value,
            "architecture": word(profile.architecture),
            "task": profile.task.value,
            "parameters": profile.parameter_count,
            "weights_gib": round(profile.weight_bytes / GIB, 2),
            "context_of_the_model": profile.context_length,
            "dtype_of_the_model": profile.dtype,
            "quantization": word(profile.quantization),
            "licence": word(profile.license),
            "rules_would": action_facts(self._own),
            "runtimes": [
                {
                    "runtime": each.runtime.value,
                    "gib_per_device": each.gib_per_device,
                    "devices": each.devices,
                    "longest_context_that_fits": each.longest_context,
                }
                for each in self._load.runtimes
            ],
            "highest_priority_allowed": model.priority_ceiling.value,
            **self._costs(),
        }

    def _costs(self) -> dict[str, Any]:
        """Return what each placement costs, and what may be spent; empty without authority."""
        if not self.policy.departures:
            return {}
        now = self.question.now or self.fleet.at
        return {
            "now": local_time(now, self.policy),
            "load_seconds": round(load_seconds(self._model)),
            "placements": [place.facts() for place in self._places.values()],
            "load_seconds_you_may_give_up": budgets(self.fleet, self.policy, now=now),
        }

    def card(self) -> str:
        """Return the start of the model card and the owner's words, each marked as untrusted."""
        words, card = owner_words(self._model), self._profile.card
        if card is None or not card.text.strip():
            return words
        shown = wrapped(card.text, source=f"the card of {self._model.name}")
        return f"{shown}\n\n{words}" if words else shown

    def advice(self, chosen: Mapping[str, Any]) -> Advice:
        """Return the preference and the class in a checked answer."""
        runtime = RuntimeName(chosen["runtime"]) if "runtime" in chosen else None
        if runtime is None and len(self._load.runtimes) == 1:
            runtime = self._load.runtimes[0].runtime
        update: dict[str, Any] = {}
        if runtime is None or runtime in WITH_CONTEXT:
            update = {k: chosen[k] for k in ("max_model_len", "max_num_seqs") if k in chosen}
        if runtime in (None, R.VLLM):
            update |= {k: chosen[k] for k in ("tensor_parallel_size", "dtype") if k in chosen}
        if isinstance(self._own, Load) and runtime in (None, self._own.runtime):
            # What the rules do anyway is not kept as a preference: it would outlast a change of the
            # operator's defaults.
            known = self._own.settings
            update = {k: v for k, v in update.items() if v != getattr(known, k)}
            runtime = None if not update else runtime
        preference = Preference(runtime=runtime, settings=LoadSettings(**update))
        priorities = {}
        if "priority" in chosen:
            priorities[self._model.name] = Priority(chosen["priority"])
        where = chosen.get("placement")
        place = self._places.get(where) if where is not None else None
        waits = where == WAIT and isinstance(self._own, Load)
        return Advice(
            hold=(self._model.name,) if waits else (),
            spots={self._model.name: place.spot} if place and place.departures else {},
            preferences={} if preference == Preference() else {self._model.name: preference},
            priorities=priorities,
            reason=chosen.get("reason", ""),
        )

    def objections(self, advice: Advice, plan: Plan) -> list[Violation]:
        """Compare ``plan`` with the advice and with the plan of the rules."""
        name = self._model.name
        own = own_action(plan, name)
        found = []
        waits = name in advice.hold
        if isinstance(self._own, Load) and not isinstance(own, Load) and not waits:
            found.append(_worse(name, "the rules load it now; with this choice it waits"))
        evicted = unloads(plan) - unloads(self.rules) - paid(plan)
        if evicted:
            text = f"{', '.join(sorted(evicted))} would be evicted for it; the rules would not"
            found.append(_worse(name, text))
        spot = advice.spots.get(name)
        if spot and not (isinstance(own, Load) and set(own.devices) == set(spot.devices)):
            text = f"{name}: with this runtime it does not fit on {', '.join(spot.devices)} now"
            found.append(Violation(rule="does-not-fit", subject=name, message=text))
        preference = advice.preferences.get(name)
        if isinstance(own, Load) and isinstance(self._own, Load):
            split = preference.settings.tensor_parallel_size if preference else 1
            now, then = len(own.devices), len(self._own.devices)
            if now > max(split, then):
                found.append(_worse(name, f"it would take {now} devices; the rules take {then}"))
        if preference is not None and isinstance(own, Load) and not follows(own, preference):
            lost = "; ".join(c.lost for c in plan.candidates if c.lost)[:300]
            text = f"{_described(preference)} does not fit now ({lost or 'not possible'})"
            found.append(Violation(rule="does-not-fit", subject=name, message=f"{name}: {text}"))
        return found


def ingest_choices(
    *, question: Question, fleet: Fleet, policy: Policy, rules: Plan, planner: Planner
) -> IngestChoices | None:
    """Return the choices for the new model; ``None`` where there are none."""
    model = fleet.models_by_name.get(question.model or "")
    if model is None or model.profile is None:
        return None
    own = own_action(rules, model.name)
    if not isinstance(own, Load | Queue):
        return None
    load = load_choices(
        WhatIf(
            question=question,
            fleet=fleet if isinstance(own, Load) else emptied(fleet, model),
            policy=policy,
            planner=planner,
            model=model,
        ),
        model=model,
        profile=model.profile,
        fleet=fleet,
        policy=policy,
        base=own.settings if isinstance(own, Load) else LoadSettings(),
    )
    if load is None:
        return None
    now = question.now or fleet.at
    places: list[Place] = []
    may_wait = False
    if policy.departures:
        places = Placements(
            question=question, fleet=fleet, policy=policy, rules=rules, planner=planner
        ).of(model)
        wait = (waiting(model, now=now),)
        may_wait = may_be_held(model, policy) and affordable(wait, fleet, policy, now=now)
    choices = IngestChoices(
        question=question,
        fleet=fleet,
        policy=policy,
        rules=rules,
        model=model,
        profile=model.profile,
        load=load,
        places=places,
        may_wait=may_wait,
    )
    return choices if open_fields(choices) else None


def _described(preference: Preference) -> str:
    """Return ``preference`` as text."""
    settings = preference.settings.model_dump(exclude_defaults=True)
    parts = [f"{key} {value}" for key, value in settings.items()]
    return ", ".join([preference.runtime or "any runtime", *parts])


def _worse(name: str, text: str) -> Violation:
    return Violation(rule="worse", subject=name, message=f"{name}: {text}")
