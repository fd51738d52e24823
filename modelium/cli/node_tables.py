"""Rich tables of the machines that share the store."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from modelium.cli.tables import GIB, WIDE, plain_table, size, span
from modelium.cli.visible import visible

COLOURS = {"active": "green", "cordoned": "yellow", "draining": "cyan"}


def nodes(rows: list[dict[str, Any]], *, width: int = WIDE) -> RenderableType:
    """Return the table of `modelium nodes`; on a narrow terminal runtimes are below it."""
    wide, own = width >= WIDE, next((v for v in map(_version, rows) if v), "")
    own = next((_version(row) for row in rows if row["here"]), own)
    columns = ["node", "state", "devices", "memory", "models", "version", "beat"]
    columns += ["runtimes", "does"] * wide
    shown = plain_table(*columns, right={"memory", "models", "beat"}, unwrapped=True)
    below: list[Text] = []
    for row in rows:
        version = _version(row) or "–"
        runtimes, does = _runtimes(row), visible(_does(row))
        cells: dict[str, str | Text] = {
            "node": row["name"] + ("*" if row["plans"] else ""),
            "state": _state(row),
            "devices": _devices(row),
            "memory": _memory(row),
            "models": str(len(row["models"])),
            "version": version if version == own else Text(f"{version} ≠", style="yellow"),
            "beat": span(row["heartbeat_s"]),
            "runtimes": runtimes,
            "does": Text(does),
        }
        shown.add_row(*(cells[column] for column in columns))
        line = Text.assemble((row["name"], "bold"), ": ", runtimes, f"; {does}" if does else "")
        below.append(line)
    return shown if wide else Group(shown, "", *below)


def detail(document: Mapping[str, Any]) -> list[RenderableType]:
    """Return one machine as lines."""
    row = document["node"]
    report = row["report"]
    lines: list[RenderableType] = [
        Text.assemble((row["name"], "bold"), " is ", _state(row), ", it plans" * row["plans"])
    ]
    facts = {
        "heartbeat": f"{span(row['heartbeat_s'])} ago",
        "version": _version(row) or "–",
        "address": report["address"] or "none: it answers its own clients alone",
        "labels": ", ".join(f"{k}={v}" for k, v in sorted(report["labels"].items())) or "–",
        "files": _files(report),
        "does": _does(row) or "–",
    }
    lines += [Text(f"  {name:<10} {visible(value)}") for name, value in facts.items()]
    devices = plain_table("device", "name", "used", "total", "health", right={"used", "total"})
    for one in report["devices"]:
        used = one["total_bytes"] - one["free_bytes"]
        health = "ok" if one["healthy"] else visible(one["detail"] or "down")
        devices.add_row(
            _device_id(one), visible(one["name"]), size(used), size(one["total_bytes"]), health
        )
    runtimes = plain_table("runtime", "version", "health")
    for one in report["runtimes"]:
        if one["enabled"]:
            health = "ok" if one["healthy"] else visible(one["detail"] or "down")
            runtimes.add_row(one["name"], visible(one["version"] or "–"), health)
    lines += ["", devices, "", runtimes, ""]
    if document["leaving"] or document["staying"]:
        return [*lines, *staying(document)]
    return [*lines, Text(f"models: {', '.join(row['models']) or 'none'}")]


def staying(document: Mapping[str, Any]) -> list[Text]:
    """Return what becomes of each model of a machine that is being drained, as lines."""
    lines = [
        Text.assemble("  ", (visible(name), "bold"), " leaves next") for name in document["leaving"]
    ]
    for name, why in document["staying"].items():
        lines.append(Text.assemble("  ", (visible(name), "bold"), f" stays: {visible(why)}"))
    return lines


def _state(row: Mapping[str, Any]) -> Text:
    if row["silent"]:
        return Text(f"silent {span(row['heartbeat_s'])}", style="red")
    return Text(row["state"], style=COLOURS[row["state"]])


def _version(row: Mapping[str, Any]) -> str:
    return visible(row["report"]["version"])


def _devices(row: Mapping[str, Any]) -> str:
    kinds = Tally(one["kind"] for one in row["report"]["devices"])
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "–"


def _memory(row: Mapping[str, Any]) -> str:
    devices = row["report"]["devices"]
    total = sum(one["total_bytes"] for one in devices)
    used = total - sum(one["free_bytes"] for one in devices)
    return f"{used / GIB:.0f}/{total / GIB:.0f} GiB" if total else "–"


def _runtimes(row: Mapping[str, Any]) -> Text:
    found = [
        f"{one['name']} {'✓' if one['healthy'] else '…' if one['starting'] else '✗'}"
        for one in row["report"]["runtimes"]
        if one["enabled"]
    ]
    return Text(", ".join(found) or "no runtime")


def _does(row: Mapping[str, Any]) -> str:
    if row["silent"]:
        return "what it has stays booked"
    if row["strays"]:
        return f"has to end {row['strays']} models that were loaded elsewhere"
    if not row["report"]["settled"]:
        return "compares the store with its engines"
    return str(row["report"]["activity"])


def _files(report: Mapping[str, Any]) -> str:
    if report["shares"]:
        return "on a mount that others have, too"
    return "fetched from other machines" if report["fetches"] else "its own"


def _device_id(device: Mapping[str, Any]) -> str:
    if device["kind"] == "cpu":
        return "cpu"
    instance = "" if device["mig"] is None else f":{device['mig']}"
    return f"{device['kind']} {device['index']}{instance}"
