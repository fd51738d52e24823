"""Tables: how the LLM's part in a decision is printed."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from modelium.cli import tables

TRACE: dict[str, Any] = {
    "endpoint": "http://llm/v1",
    "model": "judge",
    "seconds": 2.5,
    "prompt_tokens": 900,
    "completion_tokens": 40,
    "replies": [{}, {}],
    "messages": [
        {"role": "user", "content": "Choose."},
        {"role": "assistant", "content": "", "calls": [{"tool": "card", "arguments": "{}"}]},
        {"role": "tool", "tool": "card", "content": "a \x1b[31mred card"},
    ],
    "violations": [[{"rule": "choice", "message": "runtime: 'x' is not allowed"}]],
    "chosen": {"priorities": {"m": "high"}, "reason": "its card \x1b[2Jsays so"},
    "rules": [{"action": "load", "model": "m", "runtime": "vllm"}],
}


def printed(*lines: RenderableType) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        for line in lines:
            console.print(line)
    return capture.get()


def test_advice_shows_cost_tool_calls_choice_violations_and_the_rules_plan() -> None:
    text = printed(*tables.advice(TRACE))
    assert "judge: 2 replies in 2.5 s, 900 + 40 tokens" in text
    assert "tools called: card" in text
    assert '{"priorities": {"m": "high"}}' in text
    assert "answer 1 ✗ choice: runtime: 'x' is not allowed" in text
    assert "without the LLM: load m (vllm)" in text


def test_a_decision_without_an_llm_has_no_advice() -> None:
    assert tables.advice({}) == []


def test_terminal_control_characters_of_an_llm_are_removed() -> None:
    text = printed(*tables.advice(TRACE), *tables.conversation(TRACE))
    assert "\x1b[2J" not in text and "\x1b[31m" not in text
    assert "tool card" in text and "→ card({})" in text


def test_a_plan_names_the_model_of_each_rejected_candidate() -> None:
    lost = {"runtime": "vllm", "devices": ["n/g0"], "lost": "no device has that much free memory"}
    document = {"actions": [], "candidates": [{**lost, "model": "gpt2"}, lost]}
    first, old = [
        line for line in printed(tables.plan(document)).splitlines() if "rejected" in line
    ]
    assert first.split()[:3] == ["rejected", "gpt2", "vllm"]
    assert old.split()[:2] == ["rejected", "vllm"], "stored before candidates had one"
