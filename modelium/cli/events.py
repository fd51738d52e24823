"""Events of the store as one line each, for people (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelium.models import Event

LONGEST = 300
"""Characters of a reason; an engine's message can be a page. `modelium explain` has all of it."""


def line(event: Event) -> str | None:
    """Return what ``event`` says in one line; ``None``: the log says it already."""
    told = _TELLERS.get(event.kind, _other)(event.model or "", event.detail, event.kind)
    return None if told is None else _one_line(told)


def duration(seconds: float) -> str:
    """Return a duration with the unit that suits it: ``12 s``, ``5 min``, ``1 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def device(label: str) -> str:
    """Return what people call the device with that ``label``."""
    return "CPU" if label.endswith("/cpu") else f"GPU {label}"


Detail = Mapping[str, Any]


def _registered(model: str, detail: Detail, kind: str) -> str:
    return f"{model}: registered, version {detail.get('version', '?')}"


def _loading(model: str, detail: Detail, kind: str) -> str:
    return f"{model}: loading on {_place(detail)}"


def _ready(model: str, detail: Detail, kind: str) -> str:
    return f"{model}: ready on {_place(detail)}, {duration(float(detail.get('load_s', 0.0)))}"


def _evicted(model: str, detail: Detail, kind: str) -> str:
    idle = detail.get("idle_s")
    why = f"idle {duration(float(idle))}" if idle is not None else detail.get("reason", "")
    return f"{model}: unloaded, {why}"


def _rejected(model: str, detail: Detail, kind: str) -> str:
    return f"drop {model}: rejected, {detail.get('message', detail.get('reason', ''))}"


def _incomplete(model: str, detail: Detail, kind: str) -> str:
    return f"drop {model}: incomplete, {detail.get('missing', '')}"


def _lost(model: str, detail: Detail, kind: str) -> str:
    return f"{model}: lost, to be loaded again: {detail.get('reason', '')}"


def _refused(model: str, detail: Detail, kind: str) -> str:
    about = model or detail.get("about") or "the fleet"
    return f"{about}: plan refused, {detail.get('reason', '')}"


def _with_reason(model: str, detail: Detail, kind: str) -> str:
    return f"{model}: {kind.rpartition('.')[2]}, {detail.get('reason', '')}"


def _removing(model: str, detail: Detail, kind: str) -> str:
    return f"{model}: being removed, asked for by {detail.get('by', '?')}"


def _removed(model: str, detail: Detail, kind: str) -> str:
    version = f"version {detail['version']} " if "version" in detail else ""
    where = "deleted" if detail.get("purge") else "moved to the trash"
    return f"{model}: {version}removed by {detail.get('by', '?')}, files {where}"


def _switched(model: str, detail: Detail, kind: str) -> str:
    was = detail.get("was")
    instead = f" instead of version {was}" if was else ""
    return f"{model}: version {detail.get('version', '?')} serves now{instead}"


def _rolled_back(model: str, detail: Detail, kind: str) -> str:
    why = detail.get("reason") or f"{detail.get('by', '?')} rolled it back"
    return (
        f"{model}: back to version {detail.get('version', '?')} from version "
        f"{detail.get('was', '?')}, {why}"
    )


def _missing(model: str, detail: Detail, kind: str) -> str:
    return f"{model}: its folder {detail.get('path', '')} has disappeared"


def _key(model: str, detail: Detail, kind: str) -> str:
    return f"API key of {detail.get('name', '?')} {kind.rpartition('.')[2]}, {detail.get('key')}"


def _reloaded(model: str, detail: Detail, kind: str) -> str:
    said = [*detail.get("changed", ()), *detail.get("restart", ())]
    return f"configuration reloaded: {'; '.join(said) or 'valid again, nothing changed'}"


def _paused(model: str, detail: Detail, kind: str) -> str:
    return f"idle evictions are {'paused' if kind == 'idle.paused' else 'resumed'} in Prefect"


def _silent(model: str, detail: Detail, kind: str) -> None:
    return None


def _other(model: str, detail: Detail, kind: str) -> str:
    shown = ", ".join(f"{key} {value}" for key, value in detail.items() if key != "decision")
    word = kind.replace(".", " ")
    return f"{model}: {word}, {shown}" if model else f"{word}: {shown}"


_TELLERS = {
    "model.registered": _registered,
    "model.loading": _loading,
    "model.ready": _ready,
    "model.evicted": _evicted,
    "model.failed": _with_reason,
    "model.aborted": _with_reason,
    "model.unservable": _with_reason,
    "model.queued": _with_reason,
    "model.lost": _lost,
    "drop.rejected": _rejected,
    "drop.incomplete": _incomplete,
    "model.removing": _removing,
    "model.removed": _removed,
    "version.removed": _removed,
    "model.switched": _switched,
    "model.rolled-back": _rolled_back,
    "model.missing": _missing,
    "key.issued": _key,
    "key.revoked": _key,
    "plan.refused": _refused,
    "config.reloaded": _reloaded,
    "config.invalid": _silent,
    "idle.paused": _paused,
    "idle.resumed": _paused,
}


def _place(detail: Detail) -> str:
    labels: Iterable[str] = detail.get("devices", ())
    return ", ".join([str(detail.get("runtime", "?")), *(device(label) for label in labels)])


def _one_line(text: str) -> str:
    """Return ``text`` on one line without control characters: parts of it came with a drop."""
    visible = "".join(c if c.isprintable() else " " for c in text)
    joined = " ".join(visible.split()).rstrip(",: ")
    return joined if len(joined) <= LONGEST else f"{joined[:LONGEST]}…"
