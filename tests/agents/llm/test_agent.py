from __future__ import annotations

from typing import Any

import pytest

from modelium.models import (
    Priority,
)
from tests.agents.advising import (
    INGEST,
    RULES,
    Build,
    newcomer,
    own,
    said,
    short_contexts,
)
from tests.fakes.fleets import fleet, loaded
from tests.fakes.llm import Answer, Body, Player, calls, says

pytestmark = pytest.mark.slow


async def test_a_wrong_answer_is_returned_once_with_what_is_allowed(house: Build) -> None:
    answers = [
        {"reason": "", "runtime": "tensorrt", "gpu_id": 99, "priority": "high"},
        {"reason": "", "runtime": "vllm", "priority": "low"},
    ]
    home = await house(lambda body: calls("decide", answers[len(home.endpoint.seen) - 1]))
    plan, advice = await home.answer(INGEST, fleet(newcomer(priority_ceiling=Priority.LOW)))
    assert plan.author == "llm"
    rules = {v["rule"] for v in advice.trace["violations"][0]}
    assert rules == {"choice", "unknown-field"}
    shown = said(home.endpoint.seen[1])
    assert "'tensorrt' is not allowed; one of: vllm, ray_serve" in shown and "gpu_id" in shown


async def test_after_a_second_wrong_answer_the_rules_decide(house: Build) -> None:
    home = await house(lambda body: calls("decide", {"runtime": "nowhere"}))
    plan, advice = await home.answer(INGEST, fleet(newcomer()))
    assert plan.author == "rules" and plan.fallback.startswith("violations: runtime")
    assert own(plan).settings.max_model_len == 2048
    assert len(home.endpoint.seen) == 2 and len(advice.trace["violations"]) == 2


def endless(body: Body) -> dict[str, Any]:
    if "tools" not in body:
        return says("let me look once more")
    return calls("card", {"model": f"m{len(body['messages'])}"})


HOSTILE: dict[str, tuple[Player, str]] = {
    "text without an end in sight": (lambda body: says("Let me think. " * 400), "invalid-answer"),
    "no JSON": (lambda body: says('{"runtime": "vllm", '), "invalid-answer"),
    "a list": (lambda body: says("[1, 2, 3]"), "invalid-answer"),
    "nothing": (lambda body: says(""), "invalid-answer"),
    "arguments that are no JSON": (lambda body: calls("decide", "{runtime:"), "invalid-answer"),
    "unknown GPUs": (lambda body: calls("decide", {"devices": ["GPU-99"]}), "violations"),
    "everything out": (
        lambda body: calls("decide", {"unload": ["pinned", "busy"], "runtime": "vllm"}),
        "violations",
    ),
    "endless tool calls": (endless, "steps"),
    "unknown tools": (lambda body: calls("shell", {"command": "rm -rf /"}), "steps"),
    "a 500": (lambda body: Answer(status=500, body=b"oops"), "endpoint-error"),
    "a 429": (lambda body: Answer(status=429, body=b"{}"), "endpoint-error"),
    "half an answer": (lambda body: Answer(body=b'{"choices": [', cut=True), "endpoint-error"),
    "no completion": (lambda body: Answer(body=b'{"choices": null}'), "endpoint-error"),
    "a web page": (
        lambda body: Answer(body=b"<html>", content_type=b"text/html"),
        "endpoint-error",
    ),
    "a stream nobody asked for": (
        lambda body: Answer(
            body=b'data: {"choices":[{"delta":{"content":"{"}}]}\n\n',
            cut=True,
            content_type=b"text/event-stream",
        ),
        "endpoint-error",
    ),
    "a time-out": (lambda body: Answer(after_s=30.0), "timeout"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_the_rules_decide_whatever_the_endpoint_does(house: Build, case: str) -> None:
    player, slug = HOSTILE[case]
    home = await house(player, seconds=0.3 if slug == "timeout" else 120.0)
    pinned = loaded("pinned", "n/g0", gib=60, pinned=True)
    known = fleet(newcomer(), pinned)
    plan, advice = await home.answer(INGEST, known)
    assert plan.fallback.split(":")[0] == slug
    assert plan.actions == RULES.plan(INGEST, known, short_contexts()).actions
    assert advice.trace["fallback"] == plan.fallback
    assert len(home.endpoint.seen) <= 7


async def test_the_token_budget_ends_the_conversation(house: Build) -> None:
    home = await house(endless, rounds=100, tokens=3000)
    plan, _advice = await home.answer(INGEST, fleet(newcomer()))
    assert plan.fallback.startswith("tokens: ")
    assert len(home.endpoint.seen) < 10
