"""Rich tables of the admin API's responses, with every column heading."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelium.cli.visible import visible
from modelium.models.action_differences import own_settings

GIB = 1024**3

COLOURS = {
    "ready": "green",
    "loading": "yellow",
    "queued": "yellow",
    "failed": "red",
    "quarantined": "red",
    "draining": "cyan",
    "unloading": "cyan",
    "arriving": "yellow",
    "incomplete": "red",
    "rejected": "red",
}


ID_CHARACTERS = 12
"""Length of a decision's id: commands take it whole, so no terminal is too narrow for it."""

WIDE = 110
"""Columns of a terminal from which on the table of models has all its columns."""


def size(value: int) -> str:
    """Format a number of bytes."""
    if value >= GIB:
        return f"{value / GIB:.1f} GiB"
    return f"{value / 1024**2:.0f} MiB" if value else "–"


def span(seconds: float | None) -> str:
    """Format a duration in seconds."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def state(row: Mapping[str, Any]) -> str:
    """Return the state of a model as people are told it."""
    return "quarantined" if row.get("quarantined") else str(row["state"])


def models(rows: list[dict[str, Any]], *, width: int = WIDE) -> RenderableType:
    """Return the table of `modelium ls`; on a narrow terminal reasons are below it."""
    wide = width >= WIDE
    team = ["team"] if any(row.get("team") for row in rows) else []
    node = ["node"] if any(row.get("nodes") for row in rows) else []
    columns = ["model", *team, "state", *node, "runtime", "memory", "idle"]
    if wide:
        columns = [*columns[:-2], "device", "memory", "idle", "QPS", "reason"]
    table = plain_table(*columns, right={"memory", "idle", "QPS"}, unwrapped=True)
    reasons: list[Text] = []
    for row in rows:
        name = row["name"] + (" 📌" if row["pinned"] else "")
        name = name if row["version"] == 1 or "@" in name else f"{name}:{row['version']}"
        cells: dict[str, str | Text] = {
            "model": name,
            "team": Text(visible(row.get("team") or "–")),
            "state": Text(state(row), style=COLOURS.get(state(row), "")),
            "node": ", ".join(row.get("nodes", ())) or "–",
            "runtime": row["runtime"] or "–",
            "device": ", ".join(row["devices"]) or "–",
            "memory": size(row["resident_bytes"] or row["booked_bytes"]),
            "idle": span(row["idle_s"]),
            "QPS": f"{row['qps']:.2f}",
            "reason": Text(visible(row["reason"])),
        }
        table.add_row(*(cells[column] for column in columns))
        if row["reason"]:
            reasons.append(Text.assemble((name, "bold"), f": {visible(row['reason'])}"))
    return table if wide else Group(table, "", *reasons)


def drops(rows: list[dict[str, Any]], *, now: float, width: int = WIDE) -> RenderableType:
    """Return the table of the drops that are no models; narrow ones as that of `models`."""
    wide = width >= WIDE
    columns = ["drop", "state", "since", *(["reason"] if wide else ())]
    table = plain_table(*columns, right={"since"}, unwrapped=True)
    reasons: list[Text] = []
    for row in rows:
        name = visible(row["name"])
        accept = f" (`modelium approve {name}` accepts it)" if row["approvable"] else ""
        why = visible(row["reason"]) + accept
        cells = [
            Text(name),
            Text(row["state"], style=COLOURS.get(row["state"], "")),
            Text(span(max(0.0, now - row["since"]))),
            Text(why),
        ]
        table.add_row(*cells[: len(columns)])
        if why:
            reasons.append(Text.assemble((name, "bold"), f": {why}"))
    return table if wide else Group(table, "", *reasons)


def drop(row: dict[str, Any]) -> list[Text]:
    """Return a drop that is no model as lines: what it is, where it lies, and why."""
    at = time.strftime("%F %T", time.localtime(row["since"]))
    name, state = (visible(row["name"]), "bold"), (row["state"], "bold")
    lines = [
        Text.assemble("the drop ", name, " is ", state, f" since {at}: {visible(row['reason'])}"),
        Text(f"  in {visible(row['path'])}", style="dim"),
    ]
    if row["approvable"]:
        lines.append(
            Text(f"  `modelium approve {visible(row['name'])}` accepts the risk {row['rule']}")
        )
    return lines


def teams(rows: list[dict[str, Any]]) -> Table:
    """Return the table of `modelium teams`."""
    right = {"weight", "models", "loaded", "queued", "memory", "GPU-seconds\nin 24 h"}
    table = plain_table(
        "team",
        "weight",
        "models",
        "loaded",
        "queued",
        "memory",
        "GPU-seconds\nin 24 h",
        right=right,
    )
    for row in rows:
        quota, seconds = row["memory_quota_bytes"], row["gpu_seconds_quota"]
        table.add_row(
            Text(visible(row["name"])) + ("" if row["declared"] else " (not declared)"),
            f"{row['weight']:g}",
            str(row["models"]),
            str(row["loaded"]),
            str(row["queued"]),
            size(row["held_bytes"]) + (f" of {size(quota)}" if quota else ""),
            f"{row['gpu_seconds']:.0f}" + (f" of {seconds:g}" if seconds else ""),
        )
    return table


def keys(rows: list[dict[str, Any]]) -> Table:
    """Return the table of `modelium keys ls`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (
        "id",
        "name",
        "team",
        "priority",
        "models",
        "per\nminute",
        "at\nonce",
        "scopes",
        "expires",
    ):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "team", "expires"))
    for row in rows:
        table.add_row(
            row["id"],
            Text(visible(row["name"])) + (" (revoked)" if row["revoked_at"] else ""),
            Text(visible(row["team"] or "–")),
            row["priority"] or "–",
            Text(visible(", ".join(sorted(row["models"])) or "all")),
            f"{row['requests_per_minute'] or '–'}",
            f"{row['max_concurrent'] or '–'}",
            ", ".join(sorted(row["scopes"])),
            _expiry(row["expires_at"]),
        )
    return table


def _expiry(at: float | None) -> str:
    """Return the day, or the local time if it is past or within two days."""
    if at is None:
        return "–"
    left, local = at - time.time(), time.localtime(at)
    if left > 2 * 86400:
        return time.strftime("%Y-%m-%d", local)
    return time.strftime("%Y-%m-%d %H:%M", local) + (" (expired)" if left <= 0 else "")


def plan(document: dict[str, Any]) -> Table:
    """Return the actions of a plan and the candidates that it rejected."""
    table = plain_table("action", "model", "runtime", "devices", "memory", "reason")
    for action in document["actions"]:
        table.add_row(
            action["action"],
            action["model"],
            action.get("runtime", "–"),
            ", ".join(action.get("devices", ())) or "–",
            size(sum(action.get("reserve", {}).values())),
            Text(action["reason"]),
        )
    for candidate in document["candidates"]:
        if candidate["lost"]:
            table.add_row(
                Text("rejected", style="dim"),
                candidate.get("model", ""),
                candidate["runtime"] or "–",
                ", ".join(candidate["devices"]) or "–",
                "",
                Text(candidate["lost"], style="dim"),
            )
    return table


def decision(document: dict[str, Any]) -> list[Text | Table]:
    """Return a decision: its plan, the LLM's part in it, and violations."""
    made = document["plan"]
    head = Text.assemble(
        (time.strftime("%F %T", time.localtime(document["at"])), "bold"),
        f"  {made['trigger']} → decided by {made['author']}, {document['outcome']}",
        f" ({document['detail']})" if document["detail"] else "",
        f"  [{document['id']}]",
    )
    lines: list[Text | Table] = [
        head,
        plan(made) if made["actions"] else Text(f"  {made['reason']}"),
    ]
    if made["fallback"]:
        lines.append(Text(f"  decided without the LLM: {made['fallback']}", style="yellow"))
    lines += advice(document["trace"], made["actions"])
    lines += [
        Text(f"  ✗ {violation['rule']}: {violation['message']}", style="red")
        for violation in document["violations"]
    ]
    return lines


def advice(trace: dict[str, Any], done: Sequence[dict[str, Any]] = ()) -> list[Text]:
    """Summarize the LLM's part in a decision; empty if it had none. ``done``: its actions."""
    if "endpoint" not in trace:
        return []
    called = [c["tool"] for m in trace["messages"] for c in m.get("calls", ())]
    head = (
        f"  {trace['model']}: {len(trace['replies'])} replies in {trace['seconds']:.1f} s, "
        f"{trace['prompt_tokens']} + {trace['completion_tokens']} tokens"
    )
    lines = [Text(head, style="magenta")]
    if called:
        lines.append(Text(f"  tools called: {', '.join(called)}", style="dim"))
    if trace["chosen"]:
        chosen = {k: v for k, v in trace["chosen"].items() if k != "reason"}
        lines.append(Text(f"  choice: {json.dumps(chosen)}"))
        if said := trace["chosen"].get("reason"):
            lines.append(Text(f"  reason: {visible(said)}"))
    for turn, violations in enumerate(trace["violations"], start=1):
        lines += [
            Text(f"  answer {turn} ✗ {v['rule']}: {visible(v['message'])}", style="red")
            for v in violations
        ]
    without = ", ".join(_short(action, done) for action in trace["rules"]) or "nothing"
    lines.append(Text(f"  without the LLM: {without}", style="dim"))
    return lines


def _short(action: dict[str, Any], done: Sequence[dict[str, Any]]) -> str:
    how = ", ".join([action.get("runtime", ""), *own_settings(action, done)])
    where = f" ({how})" if "runtime" in action else ""
    return f"{action['action']} {action['model']}{where}"


def trace_page(document: dict[str, Any]) -> list[Text | Table]:
    """Return the page of a decision that an LLM was asked for; another decision as ever."""
    lines = document["trace"].get("page")
    if not lines:
        return decision(document)
    head = Text.assemble(
        (time.strftime("%F %T", time.localtime(document["at"])), "bold"),
        f"  {document['outcome']}  [{document['id']}]",
    )
    return [head, *(Text(visible(line)) for line in lines)]


def conversation(trace: dict[str, Any]) -> list[Text]:
    """Return all messages exchanged with an LLM."""
    lines = []
    for message in trace.get("messages", ()):
        who = message["role"] + (f" {message['tool']}" if message.get("tool") else "")
        lines.append(Text(f"\n{who}", style="bold"))
        if message["content"]:
            lines.append(Text(visible(message["content"])))
        lines += [
            Text(visible(f"→ {call['tool']}({call['arguments']})"))
            for call in message.get("calls", ())
        ]
    return lines


def advised(rows: list[dict[str, Any]], *, width: int = WIDE) -> RenderableType:
    """Return the table of `modelium brain ls`; a narrow one is without what the LLM cost."""
    wide, cost = width >= WIDE, ("replies", "seconds", "tokens")
    columns = ["id", "time", "trigger", "subject", "decided by", *((*cost, "reason") * wide)]
    table = plain_table(*columns, right=cost, unwrapped=True)
    reasons: list[Text] = []
    for row in rows:
        made, trace = row["plan"], row["trace"]
        cells: dict[str, str | Text] = {
            "id": row["id"],
            "time": time.strftime("%F %T" if wide else "%m-%d %H:%M", time.localtime(row["at"])),
            "trigger": made["trigger"],
            "subject": made["subject"] or "whole fleet",
            "decided by": made["author"],
            "replies": str(len(trace["replies"])),
            "seconds": f"{trace['seconds']:.1f}",
            "tokens": str(trace["prompt_tokens"] + trace["completion_tokens"]),
            "reason": Text(made["fallback"] or made["reason"]),
        }
        table.add_row(*(cells[column] for column in columns))
        reasons.append(Text.assemble((row["id"], "bold"), ": ", cells["reason"]))
    return table if wide else Group(table, "", *reasons)


def event(document: dict[str, Any]) -> Text:
    """Return an event as one line."""
    # The setup is for comparing; it tells people nothing.
    told = {key: value for key, value in document["detail"].items() if key != "setup"}
    detail = ", ".join(f"{key}: {value}" for key, value in told.items())
    at = time.strftime("%T", time.localtime(document["at"]))
    return Text.assemble((at, "dim"), f"  {document['kind']}  ", (visible(detail), "dim"))


def plain_table(*columns: str, right: Container[str] = (), unwrapped: bool = False) -> Table:
    """Return an empty table. If ``unwrapped``, only the column ``reason`` wraps its text."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        whole = ID_CHARACTERS if column == "id" else None
        fixed = unwrapped and column != "reason"
        table.add_column(column, justify=justify, no_wrap=fixed, min_width=whole)
    return table
