"""What an advisor may choose for a new model: runtime, settings, priority class (pure).

Settings are never worse than what the rules would give, and what they take of memory is free now
or costs no more evictions. The devices are the rules' affair: packing is arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.llm.choices import Field, Planner, open_fields
from agents.llm.untrusted import word, wrapped
from agents.llm.what_if import Trial, emptied, honours, own_action, unloads
from agents.rules.ranking import priority_class
from agents.rules.sizing import asked_settings
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
from modelium.models.runtimes import RUNTIMES
from modelium.policy import Policy
from modelium.ports import Question

R = RuntimeName
LONG = frozenset(r.name for r in RUNTIMES.values() if r.takes_context_length)
"""Runtimes for which a context length means something."""

CONTEXTS = 8
"""Context lengths offered: doublings, so eight reach from 2k to 256k."""

MORE = 8
"""Sequences at once may be raised by up to this factor, tensor parallelism by two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A runtime that could load the model now, and the longest context that fits there."""

    runtime: RuntimeName
    gib_per_device: float
    degree: int
    longest: int | None


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
        ways: Sequence[Way],
        settings: Mapping[str, tuple[int, ...]],
        dtypes: tuple[str, ...],
    ) -> None:
        """Use `ingest_choices`."""
        self.question = question
        self.fleet = fleet
        self.policy = policy
        self.rules = rules
        self._model = model
        self._profile = profile
        self._ways = ways
        self._settings = settings
        self._dtypes = dtypes
        own = own_action(rules, model.name)
        self._own = own
        self._class = priority_class(model, policy)
        ceiling = model.priority_ceiling
        self._classes = tuple(p for p in Priority if ceiling.rank <= p.rank <= self._class.rank)

    @property
    def fields(self) -> Sequence[Field]:
        """Runtime, settings, class: those with more than one legal value."""
        load = self._own if isinstance(self._own, Load) else None
        found = [
            Field(
                name="runtime",
                allowed=tuple(way.runtime.value for way in self._ways),
                default=load.runtime.value if load else self._ways[0].runtime.value,
                meaning="The serving runtime.",
            ),
            Field(
                name="max_model_len",
                allowed=self._settings.get("max_model_len", ()),
                meaning="Context in tokens; longer takes more memory.",
            ),
            Field(
                name="max_num_seqs",
                allowed=self._settings.get("max_num_seqs", ()),
                meaning="Requests at once.",
            ),
            Field(
                name="tensor_parallel_size",
                allowed=self._settings.get("tensor_parallel_size", ()),
                meaning="GPUs to split it over; vllm alone.",
            ),
            Field(
                name="dtype", allowed=self._dtypes, meaning="`auto` is the model's own; vllm alone."
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
        """The model, what the rules would do, and what each runtime would take."""
        profile, model = self._profile, self._model
        return {
            "model": model.name,
            "team": model.team,
            "format": profile.format.value,
            "architecture": word(profile.architecture),
            "task": profile.task.value,
            "parameters": profile.parameter_count,
            "weights_gib": round(profile.weight_bytes / GIB, 2),
            "context_of_the_model": profile.context_length,
            "dtype_of_the_model": profile.dtype,
            "quantization": word(profile.quantization),
            "licence": word(profile.license),
            "rules_would": shown(self._own),
            "runtimes": [
                {
                    "runtime": way.runtime.value,
                    "gib_per_device": way.gib_per_device,
                    "devices": way.degree,
                    "longest_context_that_fits": way.longest,
                }
                for way in self._ways
            ],
            "highest_priority_allowed": model.priority_ceiling.value,
        }

    def card(self) -> str:
        """The model card's beginning, marked as untrusted; empty where there is none."""
        if self._profile.card is None or not self._profile.card.text.strip():
            return ""
        return wrapped(self._profile.card.text, source=f"the card of {self._model.name}")

    def advice(self, chosen: Mapping[str, Any]) -> Advice:
        """Turn a checked answer into a preference and a class."""
        runtime = RuntimeName(chosen["runtime"]) if "runtime" in chosen else None
        if runtime is None and len(self._ways) == 1:
            runtime = self._ways[0].runtime
        update: dict[str, Any] = {}
        if runtime is None or runtime in LONG:
            update = {k: chosen[k] for k in ("max_model_len", "max_num_seqs") if k in chosen}
        if runtime in (None, R.VLLM):
            update |= {k: chosen[k] for k in ("tensor_parallel_size", "dtype") if k in chosen}
        if isinstance(self._own, Load) and runtime in (None, self._own.runtime):
            # What the rules do anyway is no preference: it would outlive the operator's defaults.
            known = self._own.settings
            update = {k: v for k, v in update.items() if v != getattr(known, k)}
            runtime = None if not update else runtime
        wish = Preference(runtime=runtime, settings=LoadSettings(**update))
        priorities = {}
        if "priority" in chosen:
            priorities[self._model.name] = Priority(chosen["priority"])
        return Advice(
            preferences={} if wish == Preference() else {self._model.name: wish},
            priorities=priorities,
            reason=chosen.get("reason", ""),
        )

    def objections(self, advice: Advice, plan: Plan) -> list[Violation]:
        """Hold ``plan`` against the wish and against what the rules would have done."""
        name = self._model.name
        own = own_action(plan, name)
        found = []
        if isinstance(self._own, Load) and not isinstance(own, Load):
            found.append(_worse(name, "the rules would load it now, with this choice it waits"))
        evicted = unloads(plan) - unloads(self.rules)
        if evicted:
            text = f"{', '.join(sorted(evicted))} would be evicted for it; the rules would not"
            found.append(_worse(name, text))
        wish = advice.preferences.get(name)
        if isinstance(own, Load) and isinstance(self._own, Load):
            split = wish.settings.tensor_parallel_size if wish else 1
            if len(own.devices) > max(split, len(self._own.devices)):
                found.append(_worse(name, f"it would take {len(own.devices)} devices"))
        if wish is not None and isinstance(own, Load) and not honours(own, wish):
            lost = "; ".join(c.lost for c in plan.candidates if c.lost)[:300]
            text = f"{described(wish)} does not fit now ({lost or 'not possible'})"
            found.append(Violation(rule="does-not-fit", subject=name, message=f"{name}: {text}"))
        return found


def ingest_choices(
    *, question: Question, fleet: Fleet, policy: Policy, rules: Plan, planner: Planner
) -> IngestChoices | None:
    """Return what may be chosen for the new model; ``None`` where nothing may."""
    model = fleet.models_by_name.get(question.model or "")
    if model is None or model.profile is None:
        return None
    own = own_action(rules, model.name)
    if not isinstance(own, Load | Queue):
        return None
    trial = Trial(
        question=question,
        fleet=fleet if isinstance(own, Load) else emptied(fleet, model),
        policy=policy,
        planner=planner,
        model=model,
    )
    ways, contexts = [], set[int]()
    base = own.settings if isinstance(own, Load) else LoadSettings()
    for support in model.profile.runtimes:
        status = fleet.runtimes_by_name.get(support.runtime)
        if not support.supported or status is None or not status.healthy:
            continue
        made = trial.load(Preference(runtime=support.runtime))
        if made is None:
            continue
        fitting = list(_contexts(trial, support.runtime, made, base, model.profile))
        contexts |= set(fitting)
        ways.append(
            Way(
                runtime=support.runtime,
                gib_per_device=round(max(made.reserve.values()) / GIB, 2),
                degree=len(made.devices),
                longest=max(fitting, default=None),
            )
        )
    if not ways:
        return None
    settings = {"max_model_len": tuple(sorted(contexts))}
    vllm = next((w for w in ways if w.runtime is R.VLLM), None)
    if base.max_num_seqs and {w.runtime for w in ways} & LONG:
        doubled = (base.max_num_seqs * 2**i for i in range(MORE.bit_length()))
        settings["max_num_seqs"] = tuple(n for n in doubled if n <= base.max_num_seqs * MORE)
    if vllm is not None:
        settings["tensor_parallel_size"] = tuple(
            degree
            for degree in sorted({vllm.degree, *model.profile.tensor_parallel_degrees})
            if vllm.degree <= degree <= 2 * vllm.degree and trial.splits(degree)
        )
    choices = IngestChoices(
        question=question,
        fleet=fleet,
        policy=policy,
        rules=rules,
        model=model,
        profile=model.profile,
        ways=ways,
        settings=settings,
        dtypes=_dtypes(model.profile, policy) if vllm else (),
    )
    return choices if open_fields(choices) else None


def _contexts(
    trial: Trial, runtime: RuntimeName, made: Load, base: LoadSettings, profile: ModelProfile
) -> Iterator[int]:
    """Yield the rules' own context and its doublings up to the model's, as far as they fit."""
    own = profile.context_length
    if runtime not in LONG or not own:
        return
    least = base.max_model_len or made.settings.max_model_len or own
    yield least
    for step in range(1, CONTEXTS):
        longer = min(own, least * 2**step)
        if longer <= least * 2 ** (step - 1):
            return
        wish = LoadSettings(max_model_len=longer)
        load = trial.load(Preference(runtime=runtime, settings=wish))
        if load is None or len(load.devices) > len(made.devices):
            return
        yield longer


def _dtypes(profile: ModelProfile, policy: Policy) -> tuple[str, ...]:
    """The operator's dtype and the model's own, where they differ."""
    asked = asked_settings(profile, policy, R.VLLM).dtype
    return (asked, "auto") if asked not in (None, "auto", profile.dtype) else ()


def described(wish: Preference) -> str:
    """``wish`` in words."""
    settings = wish.settings.model_dump(exclude_defaults=True)
    parts = [f"{key} {value}" for key, value in settings.items()]
    return ", ".join([wish.runtime or "any runtime", *parts])


def shown(action: Any) -> dict[str, Any]:
    """An action, as far as it is of interest to an advisor."""
    if isinstance(action, Load):
        settings = action.settings.model_dump(
            include={"max_model_len", "max_num_seqs", "dtype", "tensor_parallel_size"},
            exclude_none=True,
        )
        return {
            "action": "load",
            "runtime": action.runtime.value,
            "priority": action.priority.value,
            **settings,
        }
    return {"action": action.action} if action is not None else {}


def _worse(name: str, text: str) -> Violation:
    return Violation(rule="worse", subject=name, message=f"{name}: {text}")
