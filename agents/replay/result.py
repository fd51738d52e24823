"""The result of one policy on one trace (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayResult:
    """Counts, seconds, and shares from 0 to 1; ``None`` where a value has no meaning."""

    policy: str
    requests: int
    cold_starts: int
    load_seconds: float
    """Of all loads, including those ahead of requests."""
    prewarm_load_seconds: float
    evictions: int
    evictions_per_hour: float
    unplaceable: int
    """Requests for models that are larger than all devices together."""
    wait_p50_s: float | None
    wait_p99_s: float | None
    slo_attainment: float | None
    """Share of the requests that waited for their model no longer than the objective."""
    occupancy: float
    """Mean share of device memory held by models."""
    decisions: int
    decision_mean_s: float
    decision_p99_s: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of a sorted sequence; 0 where it is empty."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def finite(value: float) -> float | None:
    """Return ``value``; ``None`` where it is infinite."""
    return value if math.isfinite(value) else None
