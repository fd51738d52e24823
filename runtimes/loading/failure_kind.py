"""Classifies a failed load by an engine's output and exit status (no I/O here)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelium.errors import FailureKind

SIGKILL_STATUSES = frozenset({-9, 137})

Rules = Sequence[tuple[FailureKind, str]]
"""Kind and pattern (case-insensitive), the most specific first: one failure causes others."""

COMMON: Rules = (
    (FailureKind.PORT, r"address already in use|errno 98\b|EADDRINUSE|couldn't bind"),
    (
        FailureKind.OUT_OF_MEMORY,
        r"out of memory|OutOfMemoryError|\bMemoryError\b|cannot allocate memory|bad_alloc|"
        r"failed to allocate",
    ),
)


def classify(lines: Sequence[str], code: int | None, rules: Rules) -> FailureKind:
    """Return the kind of the first match among `COMMON` and ``rules``, else judge by ``code``."""
    text = "\n".join(lines)
    for kind, pattern in (*COMMON, *rules):
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    return FailureKind.KILLED if code in SIGKILL_STATUSES else FailureKind.UNKNOWN
