"""The page of a decision says what was offered, looked up, chosen, refused and done."""

from __future__ import annotations

from typing import Any

from modelium.models import (
    Departure,
    DepartureKind,
    Load,
    LoadSettings,
    Plan,
    Queue,
    RuntimeName,
    Trigger,
)
from modelium.stages.trace_page import CHOICES, LOOKUPS, WIDTH, page

LOAD = Load(
    model="new", runtime=RuntimeName.VLLM, devices=("n/g1",), reserve={"n/g1": 1}, reason="r"
)
TRACE: dict[str, Any] = {
    "endpoint": "http://llm/v1",
    "model": "judge",
    "seconds": 4.25,
    "replies": [{}, {}],
    "prompt_tokens": 1200,
    "completion_tokens": 90,
    "messages": [
        {"role": "user", "content": "question"},
        {
            "role": "assistant",
            "content": "",
            "calls": [
                {"tool": "card", "arguments": "{'model': 'new'}"},
                {"tool": "fleet", "arguments": "{}"},
            ],
        },
        {"role": "tool", "tool": "card", "content": "a card\nof \u202etwo lines"},
        {"role": "tool", "tool": "fleet", "content": "x" * 71},
        {"role": "assistant", "content": "", "calls": [{"tool": "decide", "arguments": "{}"}]},
    ],
    "violations": [[{"rule": "choice", "message": "runtime: 'x' is not allowed"}]],
    "offered": {"placement": ["n/g0", "n/g1", "queue"], "order": list("abcdefghij")},
    "chosen": {"spots": {"new": {"devices": ["n/g1"]}}, "reason": "the GPU is\nfree"},
    "rules": [LOAD.model_copy(update={"devices": ("n/g0",)}).model_dump(mode="json")],
}
PLAN = Plan(
    author="llm",
    trigger=Trigger.INGEST,
    subject="new",
    actions=(LOAD,),
    departures=(Departure(kind=DepartureKind.DEVICE, model="new", price_s=12.4, until=0.0),),
)


def test_a_decision_is_told_on_one_page() -> None:
    assert page(PLAN, TRACE) == [
        "ingest of new: decided by llm",
        "asked      judge at http://llm/v1",
        "           2 replies in 4.2 s, 1200 + 90 tokens",
        "offered    placement: n/g0, n/g1, queue",
        "           order: a, b, c, d, e, f, g, h and 2 more",
        "looked up  card({'model': 'new'}) → a card of two lines",
        "           fleet() → " + "x" * 70 + "…",
        "refused    answer 1: runtime: 'x' is not allowed",
        'chose      spots: {"new": {"devices": ["n/g1"]}}',
        "because    the GPU is free",
        "rules      load new on n/g0 (vllm)",
        "done       load new on n/g1 (vllm)",
        "gives up   device new: 12 load-seconds at most",
    ]


def test_settings_that_differ_are_told() -> None:
    chosen = LoadSettings(max_model_len=32768, dtype="auto", max_num_seqs=4, kv_cache_bytes=9)
    rules = LoadSettings(max_model_len=2048, max_num_seqs=4, extra_kv_bytes=1)
    done = LOAD.model_copy(update={"settings": chosen})
    planned = LOAD.model_copy(update={"settings": rules}).model_dump(mode="json")
    other = {**planned, "model": "other", "settings": {}}
    queued = {"action": "queue", "model": "new"}
    plan = PLAN.model_copy(update={"actions": (done,), "departures": ()})
    assert page(plan, {**TRACE, "rules": [queued, other, planned]})[-4:] == [
        "rules      queue new",
        "           load other on n/g1 (vllm)",
        "           load new on n/g1 (vllm, dtype default, max_model_len 2048)",
        "done       load new on n/g1 (vllm, dtype auto, max_model_len 32768)",
    ]


def test_a_load_that_the_rules_queued_has_no_settings_to_compare() -> None:
    plan = PLAN.model_copy(update={"departures": ()})
    for rules in ({"action": "queue", "model": "new"}, {**TRACE["rules"][0], "model": "x"}):
        assert page(plan, {**TRACE, "rules": [rules]})[-1] == "done       load new on n/g1 (vllm)"


def test_what_is_only_recorded_is_told_apart() -> None:
    kept = Departure(kind=DepartureKind.QUEUE, model="new", price_s=30.0, until=0.0, shadow=True)
    plan = PLAN.model_copy(update={"departures": (kept, *PLAN.departures)})
    assert page(plan, TRACE)[-2:] == [
        "gives up   device new: 12 load-seconds at most",
        "shadow     queue new: 30 load-seconds at most; not trusted yet, so only recorded",
    ]


def test_a_choice_that_was_not_used_is_told_with_the_reason() -> None:
    plan = Plan(
        author="rules",
        trigger=Trigger.REVIEW,
        fallback="timeout: no answer within 30 s",
        actions=(Queue(model="a", reason=""),),
    )
    lines = page(plan, {**TRACE, "messages": [], "violations": [], "chosen": None, "rules": []})
    assert lines[0] == "review of the whole fleet: decided by rules"
    assert lines[-3:] == [
        "not used   timeout: no answer within 30 s",
        "rules      nothing",
        "done       queue a",
    ]


def test_a_page_stays_a_page() -> None:
    calls = [{"tool": "fleet", "arguments": "{}"}] * (LOOKUPS + 2)
    long: dict[str, Any] = {
        **TRACE,
        "messages": [{"role": "assistant", "content": "", "calls": calls}],
        "offered": {f"f{i}": ["v" * 200] for i in range(CHOICES + 1)},
        "chosen": {"reason": "w" * 900},
    }
    lines = page(PLAN, long)
    assert max(map(len, lines)) == WIDTH
    assert len(lines) < 70
    assert "           and 2 more" in lines
    assert lines.count("           fleet() → no answer") == LOOKUPS - 1
    assert sum("f0: " in line for line in lines) == 1 and not any("f12:" in x for x in lines)


def test_few_refusals_of_each_answer_are_told() -> None:
    answers = [[{"rule": "choice", "message": f"m{i}"} for i in range(n)] for n in (4, 7)]
    lines = page(PLAN, {**TRACE, "violations": answers})
    told = [line[11:] for line in lines if "answer " in line]
    assert told == [
        *(f"answer 1: m{i}" for i in range(4)),
        *(f"answer 2: m{i}" for i in range(4)),
        "answer 2: and 3 more",
    ]


def test_a_decision_without_an_llm_has_no_page() -> None:
    assert page(PLAN, {}) == []
