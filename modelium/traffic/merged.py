"""The traffic of one model at several gateways as one (no I/O here)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TypeVar

from modelium.models import Traffic
from modelium.traffic.daily_pattern import merge

_N = TypeVar("_N", int, float)

ENOUGH = 256
"""Requests of which a gateway keeps latencies: more do not make its percentiles weigh more."""


def merged(parts: Sequence[Traffic]) -> Traffic:
    """Return the sum of ``parts``, each of one gateway; no request is in two of them.

    Counts, rates, tokens and histograms are sums, and habits unions. Of what cannot be added:

    - Percentiles of latency are means of the parts', by requests. Those of all requests lie
      between the least and the greatest part's, as these do: the error is at most their distance.
    - ``concurrency`` is the greatest part's, or what there is now if that is more. The true peak
      is at most the sum of the parts'.
    - ``intervals`` are those that each gateway saw: between arrivals of one gateway, not of all.
    """
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Traffic()
    in_flight, pending = sum(p.in_flight for p in parts), sum(p.pending for p in parts)
    return Traffic(
        in_flight=in_flight,
        pending=pending,
        pending_priority=min(
            (p.pending_priority for p in parts if p.pending_priority is not None),
            key=lambda priority: priority.rank,
            default=None,
        ),
        completed=sum(p.completed for p in parts),
        failed=sum(p.failed for p in parts),
        direct=sum(p.direct for p in parts),
        qps=sum(p.qps for p in parts),
        qps_last_hour=sum(p.qps_last_hour for p in parts),
        latency_p50_s=_mean(parts, lambda p: p.latency_p50_s),
        latency_p99_s=_mean(parts, lambda p: p.latency_p99_s),
        first_request_at=min(_known(p.first_request_at for p in parts), default=None),
        last_request_at=max(_known(p.last_request_at for p in parts), default=None),
        rates=_sums([p.rates for p in parts]),
        hours=_sums([p.hours for p in parts]),
        intervals=_sums([p.intervals for p in parts]),
        habit=reduce(merge, (p.habit for p in parts)),
        queued=sum(p.queued for p in parts),
        queue_s=_mean(parts, lambda p: p.queue_s),
        concurrency=max(float(in_flight + pending), *(p.concurrency for p in parts)),
        prompt_tokens=sum(p.prompt_tokens for p in parts),
        generated_tokens=sum(p.generated_tokens for p in parts),
        prompt_tokens_per_s=sum(p.prompt_tokens_per_s for p in parts),
        generated_tokens_per_s=sum(p.generated_tokens_per_s for p in parts),
        ended_per_s=sum(p.ended_per_s for p in parts),
        longest_tokens=max(p.longest_tokens for p in parts),
        sized=sum(p.sized for p in parts),
        short_context=max(p.short_context for p in parts),
        gpu_utilization=max(_known(p.gpu_utilization for p in parts), default=None),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(parts: Sequence[Traffic], read: Callable[[Traffic], float | None]) -> float | None:
    """Return the mean of a value by the requests that it is of; ``None``: no part has it."""
    found = [(v, max(1, min(ENOUGH, p.completed))) for p in parts if (v := read(p)) is not None]
    if not found:
        return None
    least, greatest = min(v for v, _ in found), max(v for v, _ in found)
    mean = sum(v * weight for v, weight in found) / sum(weight for _, weight in found)
    return min(greatest, max(least, mean))  # rounding may leave the range


def _sums(rows: Sequence[tuple[_N, ...]]) -> tuple[_N, ...]:
    """Return the sums of the columns; rows of another length than the longest do not count."""
    longest = max(len(row) for row in rows)
    return tuple(map(sum, zip(*(row for row in rows if len(row) == longest), strict=True)))
