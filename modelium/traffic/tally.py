"""The traffic counters of one model, in memory (no I/O here)."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque

from modelium.models import Habit, Priority, Traffic
from modelium.ports import EngineStats
from modelium.traffic.daily_pattern import SLOT_S, merge, with_request
from modelium.traffic.direct_requests import DirectRequestCounter, DirectRequests
from modelium.traffic.engine_load import EngineLoad
from modelium.traffic.request_batch import RequestBatch
from modelium.traffic.sliding_window import SlidingWindow

HORIZONS_S = (60.0, 300.0, 3600.0, 86400.0)
"""Time constants of the decayed request rates."""

INTERVAL_BOUNDS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
"""Upper bounds of the histogram of intervals between arrivals; one more bucket follows the last."""

LATENCIES_KEPT = 256
"""Number of latencies for p50 and p99: with fewer, p99 is the maximum; more take longer to sort."""


class Tally:
    """All counters of one model."""

    __slots__ = (
        "_direct_counter",
        "_habit",
        "_hour",
        "_last_arrival_at",
        "_latencies",
        "_minute",
        "_percentiles",
        "_rates",
        "_rates_at",
        "_slot",
        "_started",
        "completed",
        "direct",
        "direct_in_flight",
        "failed",
        "first_request_at",
        "in_flight",
        "intervals",
        "last_request_at",
        "load",
        "pending",
        "pending_by_class",
    )

    def __init__(self, now: float) -> None:
        self.in_flight = self.pending = self.completed = self.failed = 0
        self.pending_by_class = [0] * len(Priority)
        self.direct = self.direct_in_flight = 0
        self.first_request_at: float | None = None
        self.last_request_at: float | None = None
        self.intervals = [0] * (len(INTERVAL_BOUNDS_S) + 1)
        self._habit = Habit()
        self._slot: float | None = None
        self._last_arrival_at: float | None = None
        self._minute = SlidingWindow(now, slots=60, width_s=1.0)
        self._hour = SlidingWindow(now, slots=60, width_s=60.0)
        self._rates = [0.0] * len(HORIZONS_S)
        self._rates_at = now
        self._latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._percentiles: tuple[float | None, float | None] | None = (None, None)
        self._started = 0
        self._direct_counter = DirectRequestCounter()
        self.load = EngineLoad(now)

    def arrive(self, at: float, now: float, requests: int = 1) -> None:
        """Count the arrival of ``requests`` at ``at`` (epoch), ``now`` (monotonic)."""
        self._arrived(at)
        self.intervals[0] += requests - 1
        self._count(now, requests)

    def start(self, now: float) -> None:
        """Count a request that is forwarded to the engine."""
        self.in_flight += 1
        self._started += 1
        self.note_concurrency(now)

    def take(self, batch: RequestBatch, at: float, now: float) -> None:
        """Count what a worker has counted since its last batch."""
        if batch.arrived:
            self.arrive(at, now, batch.arrived)
        self._started += batch.started
        self.in_flight += batch.peak
        self.note_concurrency(now)
        ended = len(batch.latencies) + batch.failed
        self.in_flight += batch.started - ended - batch.peak
        if ended:
            self.load.on_ended(ended, now)
            self.last_request_at = at
            self.failed += batch.failed
            self.completed += len(batch.latencies)
            self._latencies.extend(batch.latencies)
            self._percentiles = None

    def note_concurrency(self, now: float) -> None:
        """Note how many requests there are at once."""
        self.load.on_concurrent(self.in_flight + self.direct_in_flight + self.pending, now)

    def observe_engine(
        self, at: float, now: float, *, loaded_at: float, stats: EngineStats
    ) -> None:
        """Count the direct requests since the previous observation."""
        direct = self._direct_counter.observe(
            loaded_at=loaded_at,
            started=self._started,
            in_flight=self.in_flight,
            stats=stats,
            now=now,
        )
        self.direct_in_flight = direct.in_flight
        self.note_concurrency(now)
        self.load.observe(stats, loaded_at=loaded_at, now=now)
        if direct.in_flight:
            self.last_request_at = at
        if requests := direct.completed + direct.failed:
            self._add_direct(direct, requests, at, now)

    def _add_direct(self, direct: DirectRequests, requests: int, at: float, now: float) -> None:
        # Their arrival times in the window are unknown: distribute them evenly.
        gap = direct.window_s / requests
        before = self.last_request_at or 0.0
        self._arrived(at - gap * (requests - 1))
        self.intervals[bisect_left(INTERVAL_BOUNDS_S, gap)] += requests - 1
        self._record_slot(at)
        self._last_arrival_at = at
        self.last_request_at = max(before, direct.last_at or at)
        self._count(now, requests)
        self.load.on_ended(requests, now)
        self.completed += direct.completed
        self.failed += direct.failed
        self.direct += requests
        if direct.latency_s is not None and direct.completed:
            self._latencies.extend([direct.latency_s] * min(direct.completed, LATENCIES_KEPT))
            self._percentiles = None

    def _arrived(self, at: float) -> None:
        if self._last_arrival_at is not None:
            # If the wall clock was set back, no time has passed.
            interval = max(0.0, at - self._last_arrival_at)
            self.intervals[bisect_left(INTERVAL_BOUNDS_S, interval)] += 1
        self._record_slot(at)
        self._last_arrival_at = at
        if self.first_request_at is None:
            self.first_request_at = at
        self.last_request_at = max(self.last_request_at or 0.0, at)

    def _record_slot(self, at: float) -> None:
        if (slot := at // SLOT_S) != self._slot:
            self._slot = slot
            self._habit = with_request(self._habit, at)

    def _count(self, now: float, requests: int) -> None:
        self._minute.add(now, requests)
        self._hour.add(now, requests)
        self._decay(now)
        # Each arrival adds 1/τ, so that a constant r requests per second converge to r.
        self._rates = [
            rate + requests / tau for rate, tau in zip(self._rates, HORIZONS_S, strict=True)
        ]

    def finish(self, at: float, now: float, latency_s: float, *, failed: bool) -> None:
        """Count a request that ended at ``at`` (epoch), ``now`` (monotonic)."""
        self.in_flight -= 1
        self.load.on_ended(1, now)
        self.last_request_at = at
        if failed:
            self.failed += 1
            return
        self.completed += 1
        self._latencies.append(latency_s)
        self._percentiles = None

    def restore(self, past: Traffic, now: float) -> None:
        """Add the counts of an earlier process."""
        self.completed += past.completed
        self.failed += past.failed
        self.direct += past.direct
        firsts = [t for t in (past.first_request_at, self.first_request_at) if t is not None]
        self.first_request_at = min(firsts, default=None)
        lasts = [t for t in (past.last_request_at, self.last_request_at) if t is not None]
        self.last_request_at = max(lasts, default=None)
        if self._last_arrival_at is None:
            self._last_arrival_at = past.last_request_at
        # Counts under other bounds or horizons cannot be converted.
        if len(past.intervals) == len(self.intervals):
            self.intervals = [a + b for a, b in zip(self.intervals, past.intervals, strict=True)]
        self._decay(now)
        if len(past.rates) == len(self._rates):
            self._rates = [a + b for a, b in zip(self._rates, past.rates, strict=True)]
        self._habit = merge(self._habit, past.habit)
        self._hour.spread(now, past.qps_last_hour * 3600)
        self.load.restore(past, now)
        if not self._latencies:
            self._percentiles = (past.latency_p50_s, past.latency_p99_s)

    def show(self, now: float) -> Traffic:
        """Return the counts as of ``now`` (monotonic)."""
        self._decay(now)
        if self._percentiles is None:
            ordered = sorted(self._latencies)
            self._percentiles = (_nearest_rank(ordered, 0.50), _nearest_rank(ordered, 0.99))
        p50, p99 = self._percentiles
        return Traffic(
            in_flight=self.in_flight + self.direct_in_flight,
            pending=self.pending,
            pending_priority=self._pending_priority(),
            completed=self.completed,
            failed=self.failed,
            direct=self.direct,
            qps=self._minute.rate(now),
            qps_last_hour=self._hour.rate(now),
            latency_p50_s=p50,
            latency_p99_s=p99,
            first_request_at=self.first_request_at,
            last_request_at=self.last_request_at,
            rates=tuple(self._rates),
            intervals=tuple(self.intervals),
            habit=self._habit,
            **self.load.fields(now),
        )

    def _pending_priority(self) -> Priority | None:
        if not self.pending:
            return None
        return next((p for p in Priority if self.pending_by_class[p.rank]), None)

    def _decay(self, now: float) -> None:
        passed = max(0.0, now - self._rates_at)
        self._rates = [
            rate * math.exp(-passed / tau)
            for rate, tau in zip(self._rates, HORIZONS_S, strict=True)
        ]
        self._rates_at = now


def _nearest_rank(ordered: list[float], share: float) -> float:
    """Return the smallest value in ``ordered`` that a ``share`` of the values do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]
