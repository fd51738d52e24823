"""The form of an answer, and what is made of an answer that does not keep to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agents.llm.choices import REASON_CHARACTERS, Field, open_fields, parse_answer, schema
from agents.llm.prompt import SHOWN, decide_tool, question, repair
from modelium.models import Plan, Trigger, Violation
from modelium.ports import Question
from tests.fakes.fleets import NOW, fleet, policy

RUNTIME = Field(name="runtime", allowed=("vllm", "ray"), default="vllm", meaning="What runs it.")
LENGTH = Field(name="length", allowed=(1, 2048), meaning="Tokens.")
ONE = Field(name="only", allowed=("x",), meaning="No choice.")
ORDER = Field(name="order", allowed=("a", "b", "c"), many=True, most=2, meaning="Order.")
ALONE = Field(name="alone", allowed=("a",), many=True, most=2, meaning="One.")


class Form:
    """`Choices` with fields of the test's own."""

    fleet = fleet()
    policy = policy()
    rules = Plan(author="rules", trigger=Trigger.REVIEW)

    def __init__(
        self, *fields: Field, trigger: Trigger = Trigger.REVIEW, card: str = "the card"
    ) -> None:
        self.fields: Sequence[Field] = fields
        self.question = Question(trigger=trigger, now=NOW)
        self._card = card

    def facts(self) -> dict[str, Any]:
        return {"fact": "é"}

    def card(self) -> str:
        return self._card

    def advice(self, chosen: Any) -> Any:
        raise AssertionError

    def objections(self, advice: Any, plan: Any) -> Any:
        raise AssertionError


FORM: Any = Form(RUNTIME, LENGTH, ONE, ORDER, ALONE)


def test_what_has_one_value_is_not_asked() -> None:
    assert open_fields(FORM) == [RUNTIME, LENGTH, ORDER, ALONE]


SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {
            "type": "string",
            "maxLength": 300,
            "description": "Why, in one or two sentences.",
        },
        "runtime": {"type": "string", "enum": ["vllm", "ray"], "description": "What runs it."},
        "length": {"type": "integer", "enum": [1, 2048], "description": "Tokens."},
        "order": {
            "type": "array",
            "items": {"type": "string", "enum": ["a", "b", "c"]},
            "maxItems": 2,
            "description": "Order.",
        },
        "alone": {
            "type": "array",
            "items": {"type": "string", "enum": ["a"]},
            "maxItems": 1,
            "description": "One.",
        },
    },
    "required": ["reason", "runtime", "length", "order", "alone"],
    "additionalProperties": False,
}


def test_the_schema_has_the_reason_first_and_allows_nothing_else() -> None:
    assert schema(FORM) == SCHEMA
    assert next(iter(schema(FORM)["properties"])) == "reason"
    mixed = Field(name="m", allowed=(1, "auto"))
    assert mixed.schema() == {"type": "string", "enum": [1, "auto"], "description": ""}


CHOOSE_FROM = "allowed: reason, runtime, length, only, order, alone"


@pytest.mark.parametrize(
    ("answer", "chosen", "wrong"),
    [
        ({}, {}, []),
        (
            {"reason": " a\n b ", "runtime": "ray", "length": 2048, "only": "x", "order": ["c", "a"], "alone": []},
            {"reason": "a b", "runtime": "ray", "length": 2048, "only": "x", "order": ["c", "a"], "alone": []},
            [],
        ),
        ({"reason": None}, {}, []),
        ({"reason": 7}, {"reason": "7"}, []),
        ({"order": ["a", "a", "b", "c"]}, {"order": ["a", "b"]}, []),
        ({"runtime": ["vllm"]}, {}, [("choice", "runtime: \"['vllm']\" is not allowed; one of: vllm, ray")]),
        ({"runtime": "y" * 81}, {}, [("choice", f"runtime: {'y' * 80!r} is not allowed; one of: vllm, ray")]),
        ({"length": True}, {}, [("choice", "length: 'True' is not allowed; one of: 1, 2048")]),
        ({"length": 1.0}, {}, [("choice", "length: '1.0' is not allowed; one of: 1, 2048")]),
        ({"length": "1"}, {}, [("choice", "length: '1' is not allowed; one of: 1, 2048")]),
        ({"length": 1}, {"length": 1}, []),
        ({"order": "a"}, {}, [("choice", "order is not a list")]),
        (
            {"order": ["a", "w", "x", "y", "z"]},
            {"order": ["a"]},
            [("choice", f"order: {name!r} is not allowed; one of: a, b, c") for name in "wxy"],
        ),
        ({"other": 1}, {}, [("unknown-field", f"'other' cannot be chosen; {CHOOSE_FROM}")]),
        ({"z" * 61: 1}, {}, [("unknown-field", f"{'z' * 60!r} cannot be chosen; {CHOOSE_FROM}")]),
        ({"other": 1, "runtime": "vllm"}, {"runtime": "vllm"}, [("unknown-field", f"'other' cannot be chosen; {CHOOSE_FROM}")]),
    ],
)  # fmt: skip
def test_legal_values_are_taken_and_others_told(
    answer: Any, chosen: dict[str, Any], wrong: list[tuple[str, str]]
) -> None:
    found = parse_answer(answer, FORM)
    assert found.chosen == {"reason": "", **chosen}
    assert [(v.rule, v.message) for v in found.violations] == wrong
    assert {v.subject for v in found.violations} <= {"answer"}


@pytest.mark.parametrize("answer", [None, [], "x", 1])
def test_what_is_no_object_is_no_answer(answer: Any) -> None:
    found = parse_answer(answer, FORM)
    assert found.chosen == {}
    assert found.violations == [
        Violation(rule="answer", subject="answer", message="the answer is not one JSON object")
    ]


def test_few_of_many_wrong_fields_are_told() -> None:
    found = parse_answer({"runtime": "ray", **{f"f{i}": i for i in range(10_000)}}, FORM)
    assert found.chosen == {"reason": "", "runtime": "ray"}
    assert [v.message for v in found.violations] == [
        f"'f{i}' cannot be chosen; {CHOOSE_FROM}" for i in range(3)
    ]


def test_a_reason_is_shortened_and_few_allowed_values_are_named() -> None:
    found = parse_answer({"reason": "r" * 400}, FORM)
    assert found.chosen == {"reason": "r" * REASON_CHARACTERS + " …(cut)"}
    many: Any = Form(Field(name="n", allowed=tuple(range(30))), Field(name="none", allowed=()))
    said = parse_answer({"n": 99, "none": 1}, many).violations
    numbers = ", ".join(map(str, range(24)))
    assert [v.message for v in said] == [
        f"n: '99' is not allowed; one of: {numbers}",
        "none: '1' is not allowed; one of: nothing",
    ]


# --- the prompts ---------------------------------------------------------------------------------

ALLOWED = """You choose:
- runtime: one of: vllm, ray. What runs it. The rules take vllm.
- length: one of: 1, 2048. Tokens.
- order: a list of up to 2 of: a, b, c. Order.
- alone: a list of up to 2 of: a. One."""


@pytest.mark.parametrize(
    ("trigger", "begins"),
    [(Trigger.INGEST, "A new model arrived. "), (Trigger.REVIEW, "Look at the whole fleet. ")],
)
@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("enforced", [True, False])
@pytest.mark.parametrize("card", ["the card", ""])
def test_a_question_has_facts_card_choices_and_the_schema_where_it_is_not_sent(
    trigger: Trigger, begins: str, tools: bool, enforced: bool, card: str
) -> None:
    form: Any = Form(RUNTIME, LENGTH, ONE, ORDER, ALONE, trigger=trigger, card=card)
    first, *rest = question(form, tools=tools, enforces_schema=enforced).split("\n\n")
    assert first.startswith(begins)
    how = (
        "Look up what you need with the tools, then call `decide` once."
        if tools
        else "Answer with one JSON object and nothing else."
    )
    expected = ['{"fact":"é"}', *([card] if card else []), ALLOWED, how]
    if not tools and not enforced:
        assert rest.pop().startswith('JSON schema: {"type":"object","properties":{"reason":{')
    assert rest == expected


def test_a_repair_names_the_first_violations() -> None:
    wrong = [Violation(rule="r", subject="s", message=f"m{i}") for i in range(SHOWN + 1)]
    assert repair(wrong).split("\n") == [
        "This cannot be done:",
        *(f"- m{i}" for i in range(SHOWN)),
        "Answer again, as one JSON object, with that put right.",
    ]


def test_the_decision_is_a_tool_with_the_schema() -> None:
    assert decide_tool(FORM) == {
        "type": "function",
        "function": {
            "name": "decide",
            "description": "Give your decision. Ends the conversation.",
            "parameters": SCHEMA,
        },
    }
