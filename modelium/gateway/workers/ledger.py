"""What one worker has counted, as the service's own counters take it (no I/O here)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from modelium.gateway.access.keyring import KeyHolder
from modelium.gateway.workers.channel import Frame
from modelium.models import Priority
from modelium.routing.admission import RoutingMetrics
from modelium.routing.switchboard import Switchboard
from modelium.traffic.request_batch import RequestBatch
from modelium.traffic.request_log import LoggedRequest


class GatewayMetrics(RoutingMetrics, Protocol):
    """What a gateway counts of requests."""

    def on_request_refused(self, model: str, reason: str) -> None:
        """A request for ``model`` got a 429 or 503."""

    def on_unauthorized(self, reason: str) -> None:
        """A request had no valid credentials."""


class Ledger:
    """Applies a worker's counts, and takes back what it had begun when it has ended."""

    def __init__(
        self,
        *,
        switchboard: Switchboard,
        metrics: GatewayMetrics,
        on_answered: Callable[[LoggedRequest], None] | None,
        on_forwarded: Callable[[LoggedRequest], None] | None,
        openings: Mapping[str, int],
    ) -> None:
        """As the arguments of `Gateway` of the same names.

        ``openings``: model → the number of its opening that the worker was told of last.
        """
        self._board = switchboard
        self._metrics = metrics
        self._on_answered = on_answered
        self._on_forwarded = on_forwarded
        self._openings = openings
        self._in_flight: Counter[str] = Counter()
        self._waiting: Counter[tuple[str, Priority | None]] = Counter()
        self._entered: dict[str, list[KeyHolder]] = {}
        traffic = switchboard.traffic
        self._calls: dict[str, Callable[..., None]] = {
            "waiting": self._wait,
            "sized": traffic.on_sized,
            "too_long": traffic.on_too_long,
            "tokens": self._tokens,
            "forwarded": self._forward,
            "held": metrics.on_request_held,
            "refused": metrics.on_request_refused,
            "unauthorized": metrics.on_unauthorized,
            "demand": switchboard.demand,
            "suspect": self._suspect,
            "lost": self._lose,
            "left": self.leave,
            "line": _log,
        }

    @property
    def in_flight(self) -> int:
        """How many of its requests are at engines."""
        return self._in_flight.total()

    def apply(self, summed: Mapping[str, Sequence[Any]], batch: Sequence[Frame]) -> None:
        """Count what the worker has counted: ``summed`` by model, and single calls."""
        calls = self._calls
        # First: who has waited and is forwarded now must not count as two at once.
        for kind, *rest in batch:
            calls[kind](*rest)
        for model, fields in summed.items():
            self.take(model, *fields)

    def take(
        self,
        model: str,
        arrived: int,
        started: int,
        failed: int,
        latencies: Sequence[float],
        peak: int,
        answers: Sequence[tuple[int, int, int]],
        logged: Sequence[tuple[float, int | None, int | None, float]],
    ) -> None:
        """Count requests of one model.

        Args:
            model: its name.
            arrived: as of `RequestBatch`.
            started: as of it.
            failed: as of it.
            latencies: as of it.
            peak: as of it.
            answers: opening, good answers, and the failed ones that followed.
            logged: the fields of a `LoggedRequest`, without the model.
        """
        self._in_flight[model] += started - failed - len(latencies)
        if arrived or started or failed or latencies:
            fields = RequestBatch(arrived, started, failed, latencies, peak)
            self._board.traffic.on_batch(model, fields)
        for opening, good, bad in answers:
            self._judge(model, opening, good, bad)
        if self._on_answered is not None:
            for at, prompt, generated, latency_s in logged:
                self._on_answered(LoggedRequest(at, model, prompt, generated, latency_s))

    def enter(self, key: str, holder: KeyHolder) -> None:
        """Count a request of a limited key, hashed ``key``; raises as `KeyHolder.enter`."""
        holder.enter()
        self._entered.setdefault(key, []).append(holder)

    def leave(self, key: str) -> None:
        """Count its end."""
        self._entered[key].pop().leave()

    def settle(self) -> None:
        """The worker has ended: what was in flight has failed, and nothing of it waits."""
        traffic = self._board.traffic
        for (model, priority), waiting in self._waiting.items():
            if waiting:
                traffic.on_waiting(model, -waiting, priority)
        for model, in_flight in self._in_flight.items():
            for _ in range(in_flight):
                traffic.on_finished(model, latency_s=0.0, failed=True)
        for holders in self._entered.values():
            for holder in holders:
                holder.leave()
        self._waiting.clear()
        self._in_flight.clear()
        self._entered.clear()

    def _wait(self, model: str, change: int, named: str | None) -> None:
        priority = Priority(named) if named is not None else None
        self._waiting[model, priority] += change
        self._board.traffic.on_waiting(model, change, priority)

    def _forward(self, *entry: Any) -> None:
        if self._on_forwarded is not None:
            self._on_forwarded(LoggedRequest(*entry))

    def _tokens(self, model: str, prompt: int | None, generated: int | None) -> None:
        self._board.traffic.on_answered(model, prompt_tokens=prompt, generated_tokens=generated)

    def _judge(self, model: str, opening: int, good: int, bad: int) -> None:
        upstream = self._board.upstream(model)
        if upstream is not None and self._openings.get(model) == opening:
            for failed in (*[False] * good, *[True] * bad):
                self._board.judge(model, upstream, failed=failed)

    def _suspect(self, model: str, opening: int) -> None:
        if self._openings.get(model) == opening:
            self._board.suspect(model)

    def _lose(self, model: str, opening: int) -> None:
        upstream = self._board.upstream(model)
        if upstream is not None and self._openings.get(model) == opening:
            self._board.lost(model, upstream)


def _log(level: int, logger: str, message: str) -> None:
    logging.getLogger(logger).log(level, "%s", message)
