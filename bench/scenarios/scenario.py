"""What a scenario is, and how one is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from modelium.lifecycle import ModelState
from modelium.models import (
    Decision,
    Fleet,
    Load,
    Model,
    ModelProfile,
    Plan,
    RuntimeName,
    Traffic,
    Trigger,
    Unload,
    Untrusted,
)
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Question
from tests.fakes.fleets import NOW, fleet, model, policy, profile

R = RuntimeName
KIB_PER_TOKEN = 1 << 18
"""256 KiB of KV per token: 4k tokens need a GiB."""

MONDAY_0858 = datetime(2027, 1, 18, 8, 58, tzinfo=UTC).timestamp()

BUSY = Traffic(in_flight=3, completed=900)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A situation in which a decision is needed."""

    name: str
    kind: str
    question: Question
    fleet: Fleet
    policy: Policy
    best: Callable[[Plan], bool]
    """Whether a plan is what a good operator would decide, or has the property."""
    good: Mapping[str, Any] = field(default_factory=dict)
    """The best answer; fields that are missing are left to the rules."""
    judgement: bool = True
    """Whether the best answer depends on something that the rules cannot know."""
    departs: bool = False
    """Whether the best answer departs from the rules, so that it needs authority."""
    trusted: bool = True
    """Whether the LLM has earned trust, so that its departures are carried out."""
    history: Sequence[Decision] = ()
    """Earlier decisions, for the `decisions` tool."""


def rules_of(**given: Any) -> Policy:
    """Return a policy with the settings of the seed's example."""
    seed = {"dtype": "float16", "max_model_len": 2048}
    rules = {R.VLLM: RuntimeRules(default_settings=seed), R.RAY_SERVE: RuntimeRules()}
    return policy(runtimes=rules, **given)


def newcomer(card: str, *, gib: float = 12, **given: Any) -> Model:
    """Return a new model with a card; fields of its profile or of itself may be given."""
    files: dict[str, Any] = {
        "context_length": 32768,
        "kv_bytes_per_token": KIB_PER_TOKEN,
        "dtype": "float16",
        "card": Untrusted(text=card),
    }
    files |= {k: given.pop(k) for k in tuple(given) if k in ModelProfile.model_fields}
    return model("new", gib, profile=profile(gib, **files), **given)


def queued(name: str, card: str, gib: float = 60, **given: Any) -> Model:
    """Return a model that waits for a minute."""
    return model(
        name,
        gib,
        state=ModelState.QUEUED,
        profile=profile(gib, card=Untrusted(text=card)),
        **{"queued_at": NOW - 60, **given},
    )


def away(name: str, card: str, *, gib: float = 20) -> Model:
    """Return a model that was evicted long before 8:58 on Monday."""
    return model(
        name,
        gib,
        state=ModelState.UNLOADED,
        state_since=MONDAY_0858 - 50_000,
        evicted_at=MONDAY_0858 - 50_000,
        profile=profile(gib, card=Untrusted(text=card)),
    )


def ingest(
    name: str,
    kind: str,
    subject: Model,
    best: Callable[[Load], bool],
    good: Mapping[str, Any],
    *others: Model,
    rules: Policy | None = None,
    judgement: bool = True,
    **given: Any,
) -> Scenario:
    """Return a scenario of a new model; ``best`` judges its load."""

    def holds(plan: Plan) -> bool:
        own = next((a for a in plan.actions if a.model == subject.name), None)
        return isinstance(own, Load) and best(own)

    return Scenario(
        name=name,
        kind=kind,
        question=Question(trigger=Trigger.INGEST, model=subject.name, now=NOW),
        fleet=fleet(subject, *others, **given),
        policy=rules or rules_of(),
        best=holds,
        good=good,
        judgement=judgement,
    )


def review(
    name: str,
    kind: str,
    best: Callable[[Plan], bool],
    good: Mapping[str, Any],
    *models: Model,
    now: float = NOW,
    **given: Any,
) -> Scenario:
    """Return a scenario of a review."""
    return Scenario(
        name=name,
        kind=kind,
        question=Question(trigger=Trigger.REVIEW, now=now),
        fleet=fleet(*models, **{"at": now, **given}),
        policy=rules_of(),
        best=best,
        good=good,
    )


def single(
    name: str, kind: str, subject: Model, best: Callable[[Plan], bool], good: Any, *others: Model,
    utilization: Sequence[float] = (), **given: Any,
) -> Scenario:  # fmt: skip
    """Return a scenario of a new model whose best plan departs from the rules."""
    known = fleet(subject, *others, **given)
    if utilization:
        devices = tuple(
            d.model_copy(update={"utilization": u})
            for d, u in zip(known.devices, utilization, strict=True)
        )
        known = known.model_copy(update={"devices": devices})
    return Scenario(
        name=name,
        kind=kind,
        question=Question(trigger=Trigger.INGEST, model=subject.name, now=NOW),
        fleet=known,
        policy=rules_of(),
        best=best,
        good=good,
        departs=True,
    )


def loads(plan: Plan) -> list[str]:
    """Return the models that ``plan`` loads, in order."""
    return [a.model for a in plan.actions if isinstance(a, Load)]


def gone(plan: Plan) -> list[str]:
    """Return the models that ``plan`` unloads."""
    return [a.model for a in plan.actions if isinstance(a, Unload)]
