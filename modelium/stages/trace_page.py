"""An LLM's part in a decision as one page that a person can read (no I/O here).

It is stored with the decision, and shown by `modelium brain show` and in the artifact of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelium.models import Departure, Plan
from modelium.models.action_differences import own_settings

WIDTH = 100
"""Longest line."""

LOOKUPS = 12
CHOICES = 12
VALUES = 8
REFUSALS = 4
"""Longest lists: a page is about fifty lines."""

ANSWER_CHARACTERS = 70
"""Of the answer of each lookup."""

SHORT_CHARACTERS = 300

Trace = Mapping[str, Any]


def page(plan: Plan, trace: Trace) -> list[str]:
    """Return the lines: what was asked, looked up, answered, refused and done.

    Empty where no LLM was asked. Text of strangers is reduced to one line of visible characters.
    """
    if "endpoint" not in trace:
        return []
    about = plan.subject or "the whole fleet"
    lines = [
        f"{plan.trigger.value} of {about}: decided by {plan.author}",
        f"asked      {trace['model']} at {trace['endpoint']}",
        f"           {len(trace['replies'])} replies in {trace['seconds']:.1f} s, "
        f"{trace['prompt_tokens']} + {trace['completion_tokens']} tokens",
    ]
    lines += _section("offered", _offered(trace))
    lines += _section("looked up", _lookups(trace["messages"]))
    lines += _section("refused", _refused(trace["violations"]))
    chosen = dict(trace["chosen"] or {})
    because = chosen.pop("reason", "")
    lines += _section("chose", _chosen(chosen))
    lines += _section("because", [because] if because else [])
    lines += _section("not used", [plan.fallback] if plan.fallback else [])
    rules, done = trace["rules"], [a.model_dump(mode="json") for a in plan.actions]
    lines += _section("rules", [_action(a, done) for a in rules] or ["nothing"])
    lines += _section("done", [_action(a, rules) for a in done] or ["nothing"])
    for name, shadow in (("gives up", False), ("shadow", True)):
        given_up = [d for d in plan.departures if d.shadow is shadow]
        lines += _section(name, [_departure(d) for d in given_up])
    return [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines]


def _section(name: str, rows: Sequence[str]) -> Iterator[str]:
    for place, row in enumerate(rows):
        text = _one_line(row)[:SHORT_CHARACTERS]
        head = f"{name if place == 0 else '':10} "
        room = WIDTH - len(head)
        for start in range(0, max(1, len(text)), room):
            yield (head if start == 0 else " " * len(head)) + text[start : start + room]


def _offered(trace: Trace) -> list[str]:
    rows = []
    for name, allowed in list(trace.get("offered", {}).items())[:CHOICES]:
        shown = ", ".join(map(str, allowed[:VALUES]))
        more = f" and {len(allowed) - VALUES} more" if len(allowed) > VALUES else ""
        rows.append(f"{name}: {shown}{more}")
    return rows


def _lookups(messages: Sequence[Trace]) -> list[str]:
    answers = [m for m in messages if m["role"] == "tool"]
    calls = [c for m in messages for c in m.get("calls", ()) if c["tool"] != "decide"]
    rows = []
    for call in calls[:LOOKUPS]:
        found = next((a for a in answers if a.get("tool") == call["tool"]), None)
        if found is not None:
            answers.remove(found)
        said = _one_line(found["content"]) if found else "no answer"
        cut = "…" if len(said) > ANSWER_CHARACTERS else ""
        given = call["arguments"] if call["arguments"] != "{}" else ""
        rows.append(f"{call['tool']}({given}) → {said[:ANSWER_CHARACTERS]}{cut}")
    if len(calls) > LOOKUPS:
        rows.append(f"and {len(calls) - LOOKUPS} more")
    return rows


def _refused(violations: Sequence[Sequence[Trace]]) -> list[str]:
    rows = []
    for turn, found in enumerate(violations, start=1):
        rows += [f"answer {turn}: {one['message']}" for one in found[:REFUSALS]]
        if len(found) > REFUSALS:
            rows.append(f"answer {turn}: and {len(found) - REFUSALS} more")
    return rows


def _chosen(chosen: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {json.dumps(value)}" for name, value in chosen.items()]


def _action(action: Trace, others: Sequence[Trace]) -> str:
    how = ", ".join([action.get("runtime", ""), *own_settings(action, others)])
    where = f" on {', '.join(action['devices'])} ({how})" if "devices" in action else ""
    return f"{action['action']} {action['model']}{where}"


def _departure(departure: Departure) -> str:
    reason = "; not trusted yet, so only recorded" if departure.shadow else ""
    return (
        f"{departure.kind.value} {departure.model}: {departure.price_s:.0f} load-seconds at most"
        f"{reason}"
    )


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))
