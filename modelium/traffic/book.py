"""Traffic counters of all models, in memory (no I/O here)."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from modelium.models import Priority, Traffic
from modelium.ports import Clock, EngineStats
from modelium.traffic.request_batch import RequestBatch
from modelium.traffic.tally import Tally


class TrafficBook:
    """Counters per model, thread-safe; requests are counted on the gateway's event loop.

    Rates count arrivals, since a waiting request is demand too. Latencies are those of the latest
    successful requests, measured at the engine, without the wait for a load. Requests that bypass
    the gateway are counted once the engine's counters show them.
    """

    def __init__(self, *, clock: Clock) -> None:
        """Start empty."""
        self._clock = clock
        # One lock for all models: it protects counting only, and `snapshot` acquires it per model.
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}

    def on_arrival(self, model: str) -> None:
        """Count the arrival of a request for ``model``."""
        with self._lock:
            self._tally(model).arrive(self._clock.time(), self._clock.monotonic())

    def on_waiting(self, model: str, change: int, priority: Priority | None = None) -> None:
        """Count ``change`` (+1/-1) requests that wait for ``model``.

        ``priority``: the class of the request, if it has one.
        """
        with self._lock:
            tally = self._tally(model)
            tally.pending += change
            tally.note_concurrency(self._clock.monotonic())
            if priority is not None:
                tally.pending_by_class[priority.rank] += change
            tally.last_request_at = self._clock.time()

    def on_started(self, model: str) -> None:
        """Count a request that is forwarded to the engine."""
        with self._lock:
            self._tally(model).start(self._clock.monotonic())

    def on_finished(self, model: str, *, latency_s: float, failed: bool) -> None:
        """Count the end of a request that `on_started` counted."""
        with self._lock:
            self._tally(model).finish(
                self._clock.time(), self._clock.monotonic(), latency_s, failed=failed
            )

    def on_batch(self, model: str, batch: RequestBatch) -> None:
        """Count what a worker has counted; see the methods above."""
        with self._lock:
            self._tally(model).take(batch, self._clock.time(), self._clock.monotonic())

    def on_answered(
        self, model: str, *, prompt_tokens: int | None, generated_tokens: int | None
    ) -> None:
        """Take the tokens that an answer reports; ``None``: it reports none."""
        with self._lock:
            load = self._tally(model).load
            load.on_answered(prompt_tokens, generated_tokens, self._clock.monotonic())

    def on_sized(self, model: str, tokens: int) -> None:
        """Note the estimated length of a request whose answer reports no tokens of its prompt."""
        with self._lock:
            self._tally(model).load.on_sized(tokens)

    def on_too_long(self, model: str, context: int) -> None:
        """Note that the engine refused a request as too long for its context of so many tokens."""
        with self._lock:
            self._tally(model).load.on_too_long(context, self._clock.monotonic())

    def on_utilization(self, shares: Mapping[str, float | None]) -> None:
        """Note model → share of time in which it used its GPUs; ``None``: not known."""
        with self._lock:
            for model, share in shares.items():
                if share is not None or model in self._tallies:
                    self._tally(model).load.gpu_utilization = share

    def on_engine_stats(self, model: str, *, loaded_at: float, stats: EngineStats) -> None:
        """Count direct requests, from the counters of an engine loaded at ``loaded_at``."""
        with self._lock:
            self._tally(model).observe_engine(
                self._clock.time(), self._clock.monotonic(), loaded_at=loaded_at, stats=stats
            )

    def on_engine_gone(self, model: str) -> None:
        """Record that ``model`` has no engine any more, so no direct requests are in flight."""
        tally = self._tallies.get(model)
        if tally is not None:
            tally.direct_in_flight = 0
            tally.load.on_gone()

    def in_flight(self, model: str) -> int:
        """Return how many of the gateway's requests the engine is processing."""
        tally = self._tallies.get(model)
        return tally.in_flight if tally else 0

    def pending(self, model: str) -> int:
        """Return how many requests wait for the model."""
        tally = self._tallies.get(model)
        return tally.pending if tally else 0

    def snapshot(self) -> Mapping[str, Traffic]:
        """Return model → traffic, for every model that has had a request or an engine."""
        now = self._clock.monotonic()
        with self._lock:
            models = list(self._tallies)
        shown = {}
        for model in models:
            with self._lock:
                if model in self._tallies:
                    shown[model] = self._tallies[model].show(now)
        return shown

    def forget(self, model: str) -> None:
        """Drop what is known of ``model``: another one may get its name."""
        with self._lock:
            self._tallies.pop(model, None)

    def restore(self, past: Mapping[str, Traffic]) -> None:
        """Add the history that was stored before a restart.

        Counts and histograms are added to those since the start; decayed rates continue from
        their stored values, and the last hour's requests count as distributed evenly. Requests
        that were in flight or waiting are not restored.
        """
        with self._lock:
            for model, traffic in past.items():
                self._tally(model).restore(traffic, self._clock.monotonic())

    def _tally(self, model: str) -> Tally:
        tally = self._tallies.get(model)
        if tally is None:
            tally = self._tallies[model] = Tally(self._clock.monotonic())
        return tally
