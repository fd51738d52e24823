"""Tables: how the LLM's part in a decision is printed."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rich.console import Console, RenderableType

from modelium.cli import tables
from modelium.cli.output import show_intent

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


def narrow(shown: RenderableType) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(shown)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_ids_of_the_llms_decisions_are_whole_in_a_narrow_terminal() -> None:
    plan = {"trigger": "ingest", "subject": "m", "author": "rules", "fallback": "", "reason": "r"}
    row = {"id": "0123456789ab", "at": 0.0, "plan": plan, "trace": TRACE}
    assert narrow(tables.advised([row], width=80))[1].startswith("0123456789ab ")


def test_the_llms_decisions_are_whole_in_a_narrow_terminal() -> None:
    plan = {"trigger": "ingest", "subject": "gemma-3-27b-it", "author": "rules"}
    plan |= {"fallback": "", "reason": "it fits"}
    row = {"id": "0123456789ab", "at": 0.0, "plan": plan, "trace": TRACE}
    minute = time.strftime("%m-%d %H:%M", time.localtime(0.0))
    head, first, empty, reason = narrow(tables.advised([row], width=80))
    assert head.split() == ["id", "time", "trigger", "subject", "decided", "by"]
    assert first.split() == ["0123456789ab", *minute.split(), "ingest", "gemma-3-27b-it", "rules"]
    assert (empty, reason) == ("", "0123456789ab: it fits")
    head, first = printed(tables.advised([row], width=tables.WIDE)).splitlines()
    assert head.split()[-4:] == ["replies", "seconds", "tokens", "reason"]
    assert first.split()[-5:] == ["2", "2.5", "940", "it", "fits"]
    assert time.strftime("%F %T", time.localtime(0.0)) in first


def test_keys_are_whole_in_a_narrow_terminal() -> None:
    row = {"id": "0123456789ab", "name": "notebook-of-alice", "revoked_at": 1.0}
    row |= {"team": "research", "priority": "medium", "models": ["gemma", "iris"]}
    row |= {"requests_per_minute": 120, "max_concurrent": 4, "scopes": ["infer", "ingest"]}
    _, head, first, *_ = shown = narrow(tables.keys([{**row, "expires_at": None}]))
    assert "…" not in "".join(shown)
    assert head.split()[-4:] == ["minute", "once", "scopes", "expires"]
    assert first.startswith("0123456789ab ")


def test_a_row_without_a_reason_has_none_below_the_narrow_table() -> None:
    silent = {"version": 1, "state": "loading", "runtime": None, "devices": [], "pinned": False}
    silent |= {"resident_bytes": 0, "booked_bytes": 0, "idle_s": None, "qps": 0.0, "reason": ""}
    rows = [{**silent, "name": "iris"}, {**silent, "name": "gemma", "reason": "too large"}]
    assert narrow(tables.models(rows, width=80))[3:] == ["", "gemma: too large"]
    drop = {"state": "arriving", "since": 0.0, "model": "m", "approvable": False, "reason": ""}
    drops = [{**drop, "name": "a"}, {**drop, "name": "b", "reason": "unfinished"}]
    assert narrow(tables.drops(drops, now=1.0, width=80))[3:] == ["", "b: unfinished"]


def test_advice_shows_cost_tool_calls_choice_violations_and_the_rules_plan() -> None:
    text = printed(*tables.advice(TRACE))
    assert "judge: 2 replies in 2.5 s, 900 + 40 tokens" in text
    assert "tools called: card" in text
    assert '{"priorities": {"m": "high"}}' in text
    assert "answer 1 ✗ choice: runtime: 'x' is not allowed" in text
    assert "without the LLM: load m (vllm)" in text
    rules = {**TRACE["rules"][0], "settings": {"max_model_len": 2048, "max_num_seqs": 4}}
    done = {**rules, "settings": {"max_model_len": 32768, "max_num_seqs": 4}}
    text = printed(*tables.advice({**TRACE, "rules": [rules]}, [done]))
    assert "without the LLM: load m (vllm, max_model_len 2048)\n" in text


def test_a_decision_without_an_llm_has_no_advice() -> None:
    assert tables.advice({}) == []


def test_terminal_control_characters_of_an_llm_are_removed() -> None:
    text = printed(*tables.advice(TRACE), *tables.conversation(TRACE))
    assert "\x1b[2J" not in text and "\x1b[31m" not in text
    assert "tool card" in text and "→ card({})" in text


def test_what_came_with_a_drop_cannot_command_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07 [red]x"
    told = tables.event({"at": 0.0, "kind": "drop.rejected", "detail": {"message": hostile}})
    assert "]0;owned [red]x" in told.plain and told.plain.isprintable()


def test_the_outcome_of_a_request_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    intent = {"state": "done", "kind": "ingest", "model": "m", "detail": "\x1b[2J [red]x", "id": 1}
    show_intent(intent, as_json=False)
    assert capsys.readouterr().out == "✓ ingest m: [2J [red]x\n"


def test_reasons_of_drops_are_below_the_table_where_the_terminal_is_narrow() -> None:
    why = "model-00001-of-00002.safetensors of model.safetensors.index.json is missing"
    row = {"name": "shards", "state": "incomplete", "since": 0.0, "reason": why}
    row |= {"model": "shards", "approvable": False}
    console = Console(width=40)
    with console.capture() as capture:
        console.print(tables.drops([row], now=60.0, width=40))
    shown = capture.get()
    assert f"shards: {why}" in " ".join(shown.split()) and "…" not in shown
    assert "reason" in printed(tables.drops([row], now=60.0))


def test_a_plan_names_the_model_of_each_rejected_candidate() -> None:
    lost = {"runtime": "vllm", "devices": ["n/g0"], "lost": "no device has that much free memory"}
    document = {"actions": [], "candidates": [{**lost, "model": "gpt2"}, lost]}
    first, old = [
        line for line in printed(tables.plan(document)).splitlines() if "rejected" in line
    ]
    assert first.split()[:3] == ["rejected", "gpt2", "vllm"]
    assert old.split()[:2] == ["rejected", "vllm"], "stored before candidates had one"
