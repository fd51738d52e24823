"""What came of earlier decisions, as an LLM is told it (I/O in `OutcomesOf`).

Errors are told by their kind alone: an engine's own words may quote what a folder says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from langchain_core.tools import BaseTool

from agents.llm.choices import Choices
from agents.llm.tools import ToolSource, read_only
from modelium.models import Fleet, Model
from modelium.models.outcomes import ClassFailures, ModelClass, Outcome
from modelium.policy import Policy
from modelium.policy.track_record import counts

OUTCOMES = 8
"""Outcomes shown of a model, and of the models of its class."""

ALIKE = 20
"""Models of its class that are looked at."""

OutcomesOf = Callable[[Collection[str], int], Sequence[Outcome]]
"""(models, limit) → outcomes of decisions on them, the newest first. Called in a thread."""


class Evidence:
    """Looks up outcomes for one question."""

    def __init__(
        self, *, fleet: Fleet, policy: Policy, subject: str | None, now: float, outcomes: OutcomesOf
    ) -> None:
        """Look nothing up yet.

        Args:
            fleet: the snapshot of the question.
            policy: the operator's rules.
            subject: the model of the question, where no other is named.
            now: seconds since the epoch.
            outcomes: reads the store.
        """
        self._fleet = fleet
        self._policy = policy
        self._subject = subject
        self._now = now
        self._outcomes = outcomes

    def of(self, model: str = "") -> Any:
        """Return what came of decisions on ``model`` and on models like it, as JSON values.

        An unknown model is answered with a sentence.
        """
        name = model or self._subject or ""
        known = self._fleet.models_by_name.get(name)
        if known is None:
            return f"error: no model is called {name[:60]!r}; `fleet` lists those that matter"
        alike = self._alike(known)
        return {
            "model": known.name,
            "outcomes": [self._shown(o) for o in self._outcomes([known.name], OUTCOMES)],
            "of_models_like_it": [self._shown(o) for o in self._outcomes(alike, OUTCOMES)],
            "failed_loads_of_models_like_it": [
                self._failures(f, known) for f in self._failed(known)
            ],
        }

    def _alike(self, model: Model) -> list[str]:
        """Return other models of its class: format, architecture and quantization."""
        if model.profile is None:
            return []
        own = ModelClass.of(model.profile)
        found = (
            other.name
            for other in self._fleet.models
            if other.name != model.name
            and other.profile is not None
            and ModelClass.of(other.profile) == own
        )
        return sorted(found)[:ALIKE]

    def _failed(self, model: Model) -> Sequence[ClassFailures]:
        if model.profile is None:
            return ()
        return self._fleet.failures_by_class.get(ModelClass.of(model.profile), ())

    def _shown(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "ago_s": round(self._now - outcome.at),
            "model": outcome.model,
            "author": outcome.author,
            "trigger": outcome.trigger.value,
            "action": outcome.action,
            **({"runtime": outcome.runtime.value} if outcome.runtime else {}),
            "outcome": outcome.summary,
            **({"undone_soon": True} if outcome.reversed else {}),
        }

    def _failures(self, found: ClassFailures, model: Model) -> dict[str, Any]:
        return {
            "runtime": found.runtime.value,
            "failed_in_a_row": found.failures,
            "models": list(found.models[:ALIKE]),
            "last_ago_s": round(self._now - found.last_at),
            "avoided_by_the_rules": counts(found, model, self._policy, now=self._fleet.at),
        }


def evidence_tools(outcomes: OutcomesOf) -> ToolSource:
    """Return what builds the tool ``outcomes`` for a question. ``outcomes`` reads the store."""

    def tools(choices: Choices) -> Sequence[BaseTool]:
        evidence = Evidence(
            fleet=choices.fleet,
            policy=choices.policy,
            subject=choices.question.model,
            now=choices.question.now or choices.fleet.at,
            outcomes=outcomes,
        )
        text = (
            "What came of earlier decisions on a model and on models like it, and which runtimes "
            "keep failing such models."
        )
        return [read_only("outcomes", text, evidence.of)]

    return tools
