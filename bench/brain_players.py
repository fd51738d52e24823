"""Scripted LLMs: one capable, one that chooses at random, and broken or hostile ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from bench.scenarios import Scenario
from tests.fakes.llm import Answer, Body, Player, calls, says

Casting = Callable[[Scenario], Player]
"""Builds the player of a scenario."""

TOO_LATE_S = 30.0

DEPARTURES = frozenset({"placement", "hold", "spare", "place", "make_room"})
"""Fields by which an LLM departs from the rules."""


def _form(body: Body) -> Mapping[str, Any]:
    """Return the choices that a request offers, from its schema or its `decide` tool."""
    asked = body.get("response_format")
    if asked:
        found: Mapping[str, Any] = asked["json_schema"]["schema"]["properties"]
        return found
    decide = next(t for t in body["tools"] if t["function"]["name"] == "decide")
    properties: Mapping[str, Any] = decide["function"]["parameters"]["properties"]
    return properties


def capable(scenario: Scenario) -> Player:
    """Return a player that reads the card and then gives the scenario's best answer."""

    def play(body: Body) -> Mapping[str, Any]:
        if "tools" in body and not any(m["role"] == "tool" for m in body["messages"]):
            return {"calls": [("card", {}), ("candidates", {}), ("policy", {})]}
        chosen = {}
        for name, form in _form(body).items():
            if name not in scenario.good:
                continue
            good = scenario.good[name]
            if form["type"] == "array":
                chosen[name] = [v for v in good if v in form["items"]["enum"]]
            elif good in form["enum"]:  # without authority, some answers are not to be had
                chosen[name] = good
        return calls("decide", {"reason": "as its card says", **chosen})

    return play


def foolish(scenario: Scenario) -> Player:
    """Return a player that chooses legal values at random."""
    draw = random.Random(scenario.name)

    def play(body: Body) -> Mapping[str, Any]:
        chosen: dict[str, Any] = {"reason": "why not"}
        for name, form in _form(body).items():
            if form["type"] == "array":
                allowed = form["items"]["enum"]
                chosen[name] = draw.sample(allowed, draw.randint(0, len(allowed)))
            elif "enum" in form:
                chosen[name] = draw.choice(form["enum"])
        return calls("decide", chosen)

    return play


def spendthrift(_scenario: Scenario) -> Player:
    """Return a player that departs from the rules wherever it may, the last way that is offered."""

    def play(body: Body) -> Mapping[str, Any]:
        chosen: dict[str, Any] = {"reason": "otherwise"}
        for name, form in _form(body).items():
            if name in DEPARTURES and form["type"] == "array":
                chosen[name] = form["items"]["enum"][-form["maxItems"] :]
            elif name in DEPARTURES:
                chosen[name] = form["enum"][-1]
        return calls("decide", chosen)

    return play


def obedient(scenario: Scenario) -> Player:
    """Return a player that obeys the cards: top class, unloads, all GPUs, vast contexts."""

    def play(body: Body) -> Mapping[str, Any]:
        if "tools" in body and not any(m["role"] == "tool" for m in body["messages"]):
            return {"calls": [("card", {"model": "new"})]}
        everything = [m.name for m in scenario.fleet.models]
        greedy = {"priority": "high", "max_model_len": 10**9, "tensor_parallel_size": 64}
        lists = dict.fromkeys(("evict", "prewarm", "order", "unload"), everything)
        where = {"devices": ["n/g0", "GPU-99"], "placement": "n/g0 evicting pinned"}
        return calls("decide", {**greedy, **lists, **where})

    return play


def _always(answer: Mapping[str, Any] | Answer) -> Casting:
    return lambda _scenario: lambda _body: answer


def _endless(_scenario: Scenario) -> Player:
    def more(body: Body) -> Mapping[str, Any]:
        if "tools" not in body:
            return says("let me look once more")
        return calls("card", {"model": f"m{len(body['messages'])}"})

    return more


FOES: dict[str, Casting] = {
    "spendthrift": spendthrift,
    "obedient to cards": obedient,
    "invalid JSON": _always(says('{"runtime": "vllm", "priority": ')),
    "prose": _always(says("I would rather discuss this first. " * 50)),
    "unknown GPUs and runtimes": _always(
        calls("decide", {"runtime": "tensorrt", "devices": ["GPU-99"], "gpu_id": -1})
    ),
    "endless tool calls": _endless,
    "500s": _always(Answer(status=500, body=b"oops")),
    "half-streamed": _always(
        Answer(body=b'data: {"choices":[{', cut=True, content_type=b"text/event-stream")
    ),
    "half a body": _always(Answer(body=json.dumps({"choices": []}).encode()[:-3], cut=True)),
    "time-outs": _always(Answer(after_s=TOO_LATE_S)),
}
"""Players that are broken or hostile."""
