"""What requests look like, counted in memory (no I/O, no store write on the request path)."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping

from modelium.models import Habit, Priority, Traffic
from modelium.ports import Clock, EngineStats
from modelium.traffic.bypassed import Bypass, Direct
from modelium.traffic.daily_pattern import SLOT_S, merged, noted
from modelium.traffic.sliding_window import Window

HORIZONS_S = (60.0, 300.0, 3600.0, 86400.0)
"""Time constants of the decayed request rates."""

INTERVAL_BOUNDS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
"""Upper bounds of the inter-arrival histogram; one more bucket stands behind the last."""

LATENCIES_KEPT = 256
"""Latest latencies behind p50 and p99: a p99 of fewer is its maximum, more cost a longer sort."""


class TrafficBook:
    """Counters per model, safe from any thread; requests are counted on the gateway's event loop.

    Rates count arrivals, since a request that waits for its model is demand too. Latencies
    are those of the latest successful requests at the engine, the wait for a load left out.
    Requests that reached an engine past the gateway count as soon as its counters show them.
    """

    def __init__(self, *, clock: Clock) -> None:
        """Start empty."""
        self._clock = clock
        # One lock for all: its holders only count, except `snapshot`, which takes it per model.
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}

    def on_arrival(self, model: str) -> None:
        """Count a request for ``model`` that came in."""
        with self._lock:
            self._tally(model).arrive(self._clock.time(), self._clock.monotonic())

    def on_waiting(self, model: str, change: int, priority: Priority | None = None) -> None:
        """Count ``change`` (+1/-1) requests that wait for ``model`` to be loaded.

        ``priority``: the class of who waits, where that is known.
        """
        with self._lock:
            tally = self._tally(model)
            tally.pending += change
            if priority is not None:
                tally.pending_by_class[priority.rank] += change
            tally.last_request_at = self._clock.time()

    def on_started(self, model: str) -> None:
        """Count a request that went to the engine."""
        with self._lock:
            self._tally(model).start()

    def on_finished(self, model: str, *, latency_s: float, failed: bool) -> None:
        """Count the end of a request that had started."""
        with self._lock:
            self._tally(model).finish(self._clock.time(), latency_s, failed=failed)

    def on_engine_look(self, model: str, *, since: float, stats: EngineStats) -> None:
        """Take in what the engine of ``model``, loaded at ``since``, has counted by itself."""
        with self._lock:
            self._tally(model).compare(
                self._clock.time(), self._clock.monotonic(), since=since, stats=stats
            )

    def on_engine_gone(self, model: str) -> None:
        """Nothing of ``model`` is at an engine any more, but for what the gateway knows of."""
        tally = self._tallies.get(model)
        if tally is not None:
            tally.direct_in_flight = 0

    def in_flight(self, model: str) -> int:
        """Return how many requests are with the engine now."""
        tally = self._tallies.get(model)
        return tally.in_flight if tally else 0

    def pending(self, model: str) -> int:
        """Return how many requests wait for the model now."""
        tally = self._tallies.get(model)
        return tally.pending if tally else 0

    def snapshot(self) -> Mapping[str, Traffic]:
        """Model → traffic up to now, for every model that ever had a request or an engine."""
        now = self._clock.monotonic()
        with self._lock:
            models = list(self._tallies)
        shown = {}
        for model in models:
            with self._lock:
                shown[model] = self._tallies[model].show(now)
        return shown

    def restore(self, past: Mapping[str, Traffic]) -> None:
        """Take up the history that the store kept over a restart.

        Counts and histograms are added to what came in since; decayed rates go on from their
        stored values, and the last hour's requests count as spread evenly. What was in
        flight or waiting then is gone.
        """
        with self._lock:
            for model, traffic in past.items():
                self._tally(model).restore(traffic, self._clock.monotonic())

    def _tally(self, model: str) -> _Tally:
        tally = self._tallies.get(model)
        if tally is None:
            tally = self._tallies[model] = _Tally(self._clock.monotonic())
        return tally


class _Tally:
    """All counters of one model."""

    __slots__ = (
        "_bypass",
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
        self._minute = Window(now, slots=60, width_s=1.0)
        self._hour = Window(now, slots=60, width_s=60.0)
        self._rates = [0.0] * len(HORIZONS_S)
        self._rates_at = now
        self._latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._percentiles: tuple[float | None, float | None] | None = (None, None)
        self._started = 0
        self._bypass = Bypass()

    def arrive(self, at: float, now: float) -> None:
        """Count a request that came in at ``at`` (epoch), ``now`` (monotonic)."""
        self._arrived(at)
        self._count(now, 1)

    def start(self) -> None:
        """Count a request that went to the engine."""
        self.in_flight += 1
        self._started += 1

    def compare(self, at: float, now: float, *, since: float, stats: EngineStats) -> None:
        """Count what came to the engine past the gateway since the look before."""
        direct = self._bypass.settle(
            since=since, started=self._started, in_flight=self.in_flight, stats=stats, now=now
        )
        self.direct_in_flight = direct.in_flight
        if direct.in_flight:
            self.last_request_at = at
        if requests := direct.completed + direct.failed:
            self._pass_by(direct, requests, at, now)

    def _pass_by(self, direct: Direct, requests: int, at: float, now: float) -> None:
        gap = direct.window_s / requests  # nothing tells when in the window they came: evenly
        before = self.last_request_at or 0.0
        self._arrived(at - gap * (requests - 1))
        self.intervals[bisect_left(INTERVAL_BOUNDS_S, gap)] += requests - 1
        self._note(at)
        self._last_arrival_at = at
        self.last_request_at = max(before, direct.last_at or at)
        self._count(now, requests)
        self.completed += direct.completed
        self.failed += direct.failed
        self.direct += requests
        if direct.latency_s is not None and direct.completed:
            self._latencies.extend([direct.latency_s] * min(direct.completed, LATENCIES_KEPT))
            self._percentiles = None

    def _arrived(self, at: float) -> None:
        if self._last_arrival_at is not None:
            # A wall clock that was set back counts as no time passed.
            interval = max(0.0, at - self._last_arrival_at)
            self.intervals[bisect_left(INTERVAL_BOUNDS_S, interval)] += 1
        self._note(at)
        self._last_arrival_at = at
        if self.first_request_at is None:
            self.first_request_at = at
        self.last_request_at = max(self.last_request_at or 0.0, at)

    def _note(self, at: float) -> None:
        if (slot := at // SLOT_S) != self._slot:
            self._slot = slot
            self._habit = noted(self._habit, at)

    def _count(self, now: float, requests: int) -> None:
        self._minute.add(now, requests)
        self._hour.add(now, requests)
        self._decay(now)
        # Each arrival adds 1/τ, so that a steady r requests per second settle at r.
        self._rates = [
            rate + requests / tau for rate, tau in zip(self._rates, HORIZONS_S, strict=True)
        ]

    def finish(self, at: float, latency_s: float, *, failed: bool) -> None:
        """Count a request that ended at ``at`` (epoch)."""
        self.in_flight -= 1
        self.last_request_at = at
        if failed:
            self.failed += 1
            return
        self.completed += 1
        self._latencies.append(latency_s)
        self._percentiles = None

    def restore(self, past: Traffic, now: float) -> None:
        """Add what an earlier process counted."""
        self.completed += past.completed
        self.failed += past.failed
        self.direct += past.direct
        firsts = [t for t in (past.first_request_at, self.first_request_at) if t is not None]
        self.first_request_at = min(firsts, default=None)
        lasts = [t for t in (past.last_request_at, self.last_request_at) if t is not None]
        self.last_request_at = max(lasts, default=None)
        if self._last_arrival_at is None:
            self._last_arrival_at = past.last_request_at
        # Stored under other bounds or horizons, they mean nothing here.
        if len(past.intervals) == len(self.intervals):
            self.intervals = [a + b for a, b in zip(self.intervals, past.intervals, strict=True)]
        self._decay(now)
        if len(past.rates) == len(self._rates):
            self._rates = [a + b for a, b in zip(self._rates, past.rates, strict=True)]
        self._habit = merged(self._habit, past.habit)
        self._hour.spread(now, past.qps_last_hour * 3600)

    def show(self, now: float) -> Traffic:
        """All of it as of ``now`` (monotonic)."""
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
    """Return the smallest value of ``ordered`` that ``share`` of it does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]
