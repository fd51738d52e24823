"""Tells which configuration fields changed since an engine was started (no I/O here)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from modelium.config import LlamaCpp, Vllm

IRRELEVANT = frozenset({"enabled", "base_port", "allowed_extra", "unhealthy_after_seconds"})
"""Fields that a running engine does not depend on."""


def fingerprint(section: Vllm | LlamaCpp) -> dict[str, str]:
    """Return field → digest of its value: values may be secret, and this is stored."""
    values = section.model_dump(mode="json", exclude=set(IRRELEVANT))
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
        for name, value in values.items()
    }


def changed(recorded: object, current: Mapping[str, str]) -> list[str]:
    """Return the fields of ``current`` that differ from ``recorded``; none if that is unknown."""
    if not isinstance(recorded, Mapping):
        return []
    return sorted(name for name in current if recorded.get(name, current[name]) != current[name])
