"""What an advisor may choose at this moment, as data, as a JSON schema and as a check (pure).

The schema is narrowed to what is legal now, so that an endpoint that enforces it cannot answer
anything else; what other endpoints answer is held against the same lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agents.llm.untrusted import printable
from modelium.models import Fleet, Plan, Violation
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Question

REASON_CHARACTERS = 300
"""Longest reason: two sentences."""

Value = str | int


class Planner(Protocol):
    """`agents.rules.planner.RulePlanner.plan`."""

    def __call__(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice = ...
    ) -> Plan:
        """Answer at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One thing to choose."""

    name: str
    allowed: tuple[Value, ...]
    many: bool = False
    """A list of them, at most `most`, the first one first; else exactly one."""
    most: int = 1
    default: Value | None = None
    """What the rules would take."""
    meaning: str = ""

    def schema(self) -> dict[str, Any]:
        """JSON schema of its value."""
        kind = "integer" if all(isinstance(v, int) for v in self.allowed) else "string"
        one: dict[str, Any] = {"type": kind, "enum": list(self.allowed)}
        if not self.many:
            return {**one, "description": self.meaning}
        return {
            "type": "array",
            "items": one,
            "maxItems": min(self.most, len(self.allowed)),
            "description": self.meaning,
        }


class Choices(Protocol):
    """What may be chosen for one question."""

    question: Question
    fleet: Fleet
    policy: Policy
    rules: Plan
    """What the rules do without advice."""

    @property
    def fields(self) -> Sequence[Field]:
        """What is to be chosen; what has one legal value may be said, but is not asked for."""

    def facts(self) -> dict[str, Any]:
        """What each choice means now, with scores; JSON values."""

    def card(self) -> str:
        """What the models' own cards say, marked as untrusted; empty where they say nothing."""

    def advice(self, chosen: Mapping[str, Any]) -> Advice:
        """Turn a checked answer into wishes."""

    def objections(self, advice: Advice, plan: Plan) -> list[Violation]:
        """Say where ``plan``, made with ``advice``, does not do what was chosen, or does worse."""


def open_fields(choices: Choices) -> list[Field]:
    """Those that leave a choice."""
    return [f for f in choices.fields if f.many or len(f.allowed) > 1]


def schema(choices: Choices) -> dict[str, Any]:
    """Return the JSON schema of an answer; the reason stands first, so that it is thought of."""
    reason = {
        "type": "string",
        "maxLength": REASON_CHARACTERS,
        "description": "Why, in one or two sentences.",
    }
    properties = {"reason": reason, **{f.name: f.schema() for f in open_fields(choices)}}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(slots=True)
class ParsedAnswer:
    """An answer as it was understood."""

    chosen: dict[str, Any] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)


def read(document: Any, choices: Choices) -> ParsedAnswer:
    """Hold an answer against what may be chosen; a field that is left out is the rules' choice."""
    found = ParsedAnswer()
    if not isinstance(document, dict):
        found.violations.append(_violation("answer", "the answer is not one JSON object"))
        return found
    fields = {f.name: f for f in choices.fields}
    for name in document:
        if name not in fields and name != "reason":
            shown = str(name)[:60]
            found.violations.append(
                _violation(
                    "unknown-field",
                    f"{shown!r} cannot be chosen; allowed: reason, {', '.join(fields)}",
                )
            )
    for name, one in fields.items():
        if name in document:
            _one(one, document[name], found)
    said = " ".join(str(document.get("reason") or "").split())
    found.chosen["reason"] = printable(said, limit=REASON_CHARACTERS)
    return found


def _one(one: Field, given: Any, found: ParsedAnswer) -> None:
    if not one.many:
        if _is_among(given, one.allowed):
            found.chosen[one.name] = given
        else:
            found.violations.append(_not_allowed(one, given))
        return
    if not isinstance(given, list):
        found.violations.append(_violation("choice", f"{one.name} is not a list"))
        return
    wrong = [v for v in given if not _is_among(v, one.allowed)]
    found.violations += [_not_allowed(one, v) for v in wrong[:3]]
    # Twice the same is the same once; past the most that is looked at, the rest is cut.
    kept = list(dict.fromkeys(v for v in given if _is_among(v, one.allowed)))
    found.chosen[one.name] = kept[: one.most]


def _is_among(given: Any, allowed: Sequence[Value]) -> bool:
    # In Python True == 1; in an answer it is not.
    return any(type(given) is type(value) and given == value for value in allowed)


def _not_allowed(one: Field, given: Any) -> Violation:
    allowed = ", ".join(map(str, one.allowed[:24])) or "nothing"
    return _violation(
        "choice", f"{one.name}: {str(given)[:80]!r} is not allowed; one of: {allowed}"
    )


def _violation(rule: str, message: str) -> Violation:
    return Violation(rule=rule, subject="answer", message=message)
