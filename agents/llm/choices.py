"""The choices of an advisor at this moment: as data, as a JSON schema, and as a check (pure).

The schema allows only what is legal now, so an endpoint that enforces it cannot answer anything
else. Answers of other endpoints are checked against the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from agents.llm.untrusted import printable
from modelium.models import Fleet, Plan, Violation
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Question

REASON_CHARACTERS = 300
"""Longest reason: two sentences."""

TOLD = 3
"""Wrong fields, and wrong values of a field, that a violation names: the next ones are alike."""

Value = str | int


class Planner(Protocol):
    """The signature of `agents.rules.planner.RulePlanner.plan`."""

    def __call__(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice = ...
    ) -> Plan:
        """Return a plan without I/O."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One choice."""

    name: str
    allowed: tuple[Value, ...]
    many: bool = False
    """The answer is a list of at most `most` of ``allowed``, in order; otherwise one of them."""
    most: int = 1
    default: Value | None = None
    """The value that the rules would use."""
    meaning: str = ""

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its value."""
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
    """The choices that one question leaves."""

    question: Question
    fleet: Fleet
    policy: Policy
    rules: Plan
    """The plan of the rules without advice."""

    @property
    def fields(self) -> Sequence[Field]:
        """Return the choices; one with a single legal value may be answered, but is not asked."""

    def facts(self) -> dict[str, Any]:
        """Return what the advisor needs to know, as JSON values."""

    def card(self) -> str:
        """Return the text of the models' cards, marked as untrusted; empty where there is none."""

    def advice(self, chosen: Mapping[str, Any]) -> Advice:
        """Return the advice in a checked answer."""

    def objections(self, advice: Advice, plan: Plan) -> list[Violation]:
        """Return where ``plan`` does not follow ``advice`` or is worse than the rules' plan."""


def open_fields(choices: Choices) -> list[Field]:
    """Return the fields with more than one possible answer."""
    return [f for f in choices.fields if f.many or len(f.allowed) > 1]


def schema(choices: Choices) -> dict[str, Any]:
    """Return the JSON schema of an answer.

    The reason comes first, so that the model reasons before it chooses.
    """
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
    """The legal values of an answer, and what is wrong with the others."""

    chosen: dict[str, Any] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)


def parse_answer(document: Any, choices: Choices) -> ParsedAnswer:
    """Check an answer against the choices; a missing field leaves the choice to the rules."""
    found = ParsedAnswer()
    if not isinstance(document, dict):
        found.violations.append(_violation("answer", "the answer is not one JSON object"))
        return found
    fields = {f.name: f for f in choices.fields}
    unknown = (name for name in document if name not in fields and name != "reason")
    found.violations += [
        _violation(
            "unknown-field",
            f"{str(name)[:60]!r} cannot be chosen; allowed: reason, {', '.join(fields)}",
        )
        for name in islice(unknown, TOLD)
    ]
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
    found.violations += [_not_allowed(one, v) for v in wrong[:TOLD]]
    # Duplicates count once, and values beyond the longest list are dropped.
    kept = list(dict.fromkeys(v for v in given if _is_among(v, one.allowed)))
    found.chosen[one.name] = kept[: one.most]


def _is_among(given: Any, allowed: Sequence[Value]) -> bool:
    # In Python True == 1; in an answer they differ.
    return any(type(given) is type(value) and given == value for value in allowed)


def _not_allowed(one: Field, given: Any) -> Violation:
    allowed = ", ".join(map(str, one.allowed[:24])) or "nothing"
    return _violation(
        "choice", f"{one.name}: {str(given)[:80]!r} is not allowed; one of: {allowed}"
    )


def _violation(rule: str, message: str) -> Violation:
    return Violation(rule=rule, subject="answer", message=message)
