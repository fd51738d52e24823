"""Counts requests that bypass the gateway, from the engine's own counters (no I/O here)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from modelium.ports import EngineStats

LAG_S = 15.0
"""Engines update their counters with up to this delay (Ray: every 10 s): a request of the gateway
may show up in them this long after it ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectRequests:
    """The requests that bypassed the gateway between two observations of an engine."""

    completed: int = 0
    failed: int = 0
    in_flight: int = 0
    """In flight now."""
    latency_s: float | None = None
    """Mean latency of all requests that the engine completed in the window."""
    last_at: float | None = None
    """When the engine last worked on a request (epoch seconds), if it reports that."""
    window_s: float = 0.0
    """Seconds between the two observations."""


class DirectRequestCounter:
    """Separates the requests of one model's engine into the gateway's and direct ones.

    Each request that the gateway forwarded is a credit for one request that the engine counts;
    requests without a credit are direct. A credit expires `LAG_S` after its request ended: the
    engine did not count that one (a client's error, a request for metadata), and the credit would
    hide a direct request later. So no request of the gateway counts twice, and direct requests
    beside gateway traffic are counted late rather than never.
    """

    def __init__(self) -> None:
        """Start without an observation."""
        self._loaded_at: float | None = None
        self._last = EngineStats()
        self._observed_at = 0.0
        self._started = 0
        self._credit = 0
        self._ended: deque[tuple[float, int]] = deque()

    def observe(
        self, *, loaded_at: float, started: int, in_flight: int, stats: EngineStats, now: float
    ) -> DirectRequests:
        """Compare the engine's counters with those of the previous observation.

        Args:
            loaded_at: when the model was loaded; counters restart with each load.
            started: number of requests that the gateway has ever forwarded to it.
            in_flight: those of them that have not ended.
            stats: the engine's counters, read before ``started`` was.
            now: monotonic seconds.
        """
        window_s, last = now - self._observed_at, self._last
        new = started - self._started
        recent = self._recent(now, started - in_flight)
        self._observed_at, self._started, self._last = now, started, stats
        open_ = in_flight + recent
        if loaded_at != self._loaded_at or _count(stats) < _count(last):
            self._loaded_at, self._credit = loaded_at, open_
            return DirectRequests(window_s=0.0)
        credit = self._credit + new
        counted = _count(stats) - _count(last)
        unexplained = max(0, counted - credit)
        self._credit = min(max(0, credit - counted), open_)
        if not _count(stats) and not open_ and _tokens(stats) > _tokens(last):
            unexplained = 1  # the engine counts only tokens: assume at least one request
        failed = min(unexplained, max(0, stats.failed - last.failed))
        return DirectRequests(
            completed=unexplained - failed,
            failed=failed,
            in_flight=max(0, stats.running + stats.waiting - open_),
            latency_s=_mean_latency(last, stats) if unexplained else None,
            last_at=stats.last_inference_at if unexplained else None,
            window_s=window_s,
        )

    def _recent(self, now: float, ended: int) -> int:
        """Return how many requests of the gateway ended within `LAG_S`."""
        if not self._ended:
            self._ended.append((now, 0))  # their end times are unknown: they may be recent
        self._ended.append((now, ended))
        while len(self._ended) > 1 and self._ended[1][0] <= now - LAG_S:
            self._ended.popleft()
        return ended - self._ended[0][1]


def _count(stats: EngineStats) -> int:
    if stats.http_requests is not None:
        return stats.http_requests
    return stats.completed + stats.failed


def _tokens(stats: EngineStats) -> int:
    return stats.prompt_tokens + stats.generated_tokens


def _mean_latency(last: EngineStats, stats: EngineStats) -> float | None:
    ended = stats.completed - last.completed
    spent = stats.latency_sum_s - last.latency_sum_s
    return spent / ended if ended > 0 and spent > 0 else None
