"""Requests that reach an engine past the gateway, told by the engine's own counters (no I/O)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from modelium.ports import EngineStats

LAG_S = 15.0
"""Engines bring their counters up to date this late at most (Ray: every 10 s), so for as long an
ended request of the gateway may yet show up in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Direct:
    """What came to an engine past the gateway between two looks."""

    completed: int = 0
    failed: int = 0
    in_flight: int = 0
    """At the engine now."""
    latency_s: float | None = None
    """Mean of all requests that the engine completed meanwhile."""
    last_at: float | None = None
    """When the engine last worked on a request, where it tells (epoch)."""
    window_s: float = 0.0
    """Time between the two looks."""


class Bypass:
    """Tells an engine's requests of the gateway from others, for one model.

    Each request that the gateway passed on is a credit that explains one that the engine
    counted; what has no credit came past the gateway. A credit is void once its request ended
    more than `LAG_S` ago, because the engine did not count it (a client's error, a request for
    metadata): otherwise it would hide a direct one later. So no request of the gateway counts
    twice, and direct ones beside gateway traffic show up late rather than never.
    """

    def __init__(self) -> None:
        """Start with no look."""
        self._since: float | None = None
        self._last = EngineStats()
        self._looked_at = 0.0
        self._started = 0
        self._credit = 0
        self._ended: deque[tuple[float, int]] = deque()

    def settle(
        self, *, since: float, started: int, in_flight: int, stats: EngineStats, now: float
    ) -> Direct:
        """Compare one look with the one before.

        Args:
            since: when the model was loaded; counters begin anew with each load.
            started: requests that the gateway ever passed on to it.
            in_flight: those of them that have not ended.
            stats: the engine's counters, read before ``started`` was.
            now: monotonic seconds.
        """
        window_s, last = now - self._looked_at, self._last
        new = started - self._started
        recent = self._recent(now, started - in_flight)
        self._looked_at, self._started, self._last = now, started, stats
        open_ = in_flight + recent
        if since != self._since or _count(stats) < _count(last):
            self._since, self._credit = since, open_
            return Direct(window_s=0.0)
        credit = self._credit + new
        counted = _count(stats) - _count(last)
        unexplained = max(0, counted - credit)
        self._credit = min(max(0, credit - counted), open_)
        if not _count(stats) and not open_ and _tokens(stats) > _tokens(last):
            unexplained = 1  # an engine that counts tokens alone: one request at least
        failed = min(unexplained, max(0, stats.failed - last.failed))
        return Direct(
            completed=unexplained - failed,
            failed=failed,
            in_flight=max(0, stats.running + stats.waiting - open_),
            latency_s=_mean_latency(last, stats) if unexplained else None,
            last_at=stats.last_inference_at if unexplained else None,
            window_s=window_s,
        )

    def _recent(self, now: float, ended: int) -> int:
        """How many requests of the gateway ended within `LAG_S`."""
        if not self._ended:
            self._ended.append((now, 0))  # when they ended is not known: they may be recent
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
