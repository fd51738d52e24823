"""In which settings two plans for a model differ (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DERIVED = frozenset({"kv_cache_bytes", "extra_kv_bytes"})


def own_settings(action: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings of a load, such as ``max_model_len 4096``, that another one has not.

    Empty where none of ``others`` loads the same model, or all is equal. What of the KV pool
    follows from the rest is left out.
    """
    load = ("load", action["model"])
    other = next((o for o in others if (o["action"], o["model"]) == load), None)
    if other is None or action["action"] != "load":
        return []
    mine, theirs = (dict(each.get("settings") or {}) for each in (action, other))
    names = sorted({*mine, *theirs} - DERIVED)
    return [
        f"{name} {'default' if mine.get(name) is None else mine[name]}"
        for name in names
        if mine.get(name) != theirs.get(name)
    ]
