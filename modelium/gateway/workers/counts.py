"""What a worker counts, for the service, which alone keeps the counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from modelium.gateway.workers.channel import Frame
from modelium.models import Priority
from modelium.traffic.request_log import LoggedRequest

FLUSH_S = 0.1
"""Longest time that a count stays here: short against every rate and interval that it is used for,
long enough for a frame to carry those of many requests."""


class _Requests:
    """What was counted of one model since the last batch."""

    __slots__ = ("answers", "arrived", "failed", "latencies", "level", "logged", "peak", "started")

    def __init__(self) -> None:
        self.arrived = self.started = self.failed = self.level = self.peak = 0
        self.latencies: list[float] = []
        self.logged: list[Frame] = []
        self.answers: list[list[int]] = []
        """Opening, good answers, and failed ones that followed."""


class Counts:
    """Takes the calls that `TrafficBook`, `Metrics` and `Signals` take; sends them in batches.

    What is frequent is summed up by model, everything else is sent as it came. Demand and what does
    not answer is sent at once, with all counted before it.
    """

    def __init__(self, *, send: Callable[[dict[str, Frame], list[Frame]], None]) -> None:
        """``send``: sends a batch: model → the fields of `Ledger.take`, and single calls."""
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._requests: dict[str, _Requests] = {}
        self._batch: list[Frame] = []
        self._timer: asyncio.TimerHandle | None = None

    def flush(self) -> None:
        """Send what was counted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._requests or self._batch:
            summed = {
                model: [r.arrived, r.started, r.failed, r.latencies, r.peak, r.answers, r.logged]
                for model, r in self._requests.items()
            }
            batch, self._batch, self._requests = self._batch, [], {}
            self._send(summed, batch)

    def _add(self, *call: object) -> None:
        self._batch.append(list(call))
        self._wake()

    def _of(self, model: str) -> _Requests:
        requests = self._requests.get(model)
        if requests is None:
            requests = self._requests[model] = _Requests()
            self._wake()
        return requests

    def _wake(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_S, self.flush)

    # --- traffic --------------------------------------------------------------------------

    def on_arrival(self, model: str) -> None:
        """See `TrafficBook.on_arrival`, as for the next ones."""
        self._of(model).arrived += 1

    def on_waiting(self, model: str, change: int, priority: Priority | None = None) -> None:
        """A request began (+1) or ceased (-1) to wait."""
        self._add("waiting", model, change, priority)

    def on_started(self, model: str) -> None:
        """A request is forwarded to the engine."""
        requests = self._of(model)
        requests.started += 1
        requests.level += 1
        requests.peak = max(requests.peak, requests.level)

    def on_finished(self, model: str, *, latency_s: float, failed: bool) -> None:
        """A request that was forwarded has ended."""
        requests = self._of(model)
        requests.level -= 1
        if failed:
            requests.failed += 1
        else:
            requests.latencies.append(round(latency_s, 6))

    def on_sized(self, model: str, tokens: int) -> None:
        """The estimated length of a request."""
        self._add("sized", model, tokens)

    def on_too_long(self, model: str, context: int) -> None:
        """The engine refused a request as too long for its context."""
        self._add("too_long", model, context)

    def on_answered(
        self, model: str, *, prompt_tokens: int | None, generated_tokens: int | None
    ) -> None:
        """The answer to another node's request reports these tokens."""
        self._add("tokens", model, prompt_tokens, generated_tokens)

    def on_logged(self, entry: LoggedRequest) -> None:
        """An engine here answered a client's request: for its tokens and the request log."""
        at, model, prompt, generated, latency_s = entry
        row = [round(at, 3), prompt, generated, round(latency_s, 6)]
        self._of(model).logged.append(row)

    def on_forwarded(self, entry: LoggedRequest) -> None:
        """Another node did."""
        self._add("forwarded", *entry)

    # --- metrics --------------------------------------------------------------------------

    def on_request_held(self, model: str, waited_s: float) -> None:
        """A request stopped waiting."""
        self._add("held", model, waited_s)

    def on_cold_start(self, model: str) -> None:
        """The service counts these, once for all workers."""

    def on_request_refused(self, model: str, reason: str) -> None:
        """A request got a 429 or 503."""
        self._add("refused", model, reason)

    def on_unauthorized(self, reason: str) -> None:
        """A request had no valid credentials."""
        self._add("unauthorized", reason)

    # --- routing --------------------------------------------------------------------------

    def on_demand(self, model: str) -> None:
        """Requests wait for ``model``."""
        self._add("demand", model)
        self.flush()

    def on_failed_answer(self, model: str) -> None:
        """The service counts these: see `on_judged`."""

    def on_unreachable(self, model: str) -> None:
        """The service is told of these by `on_suspect`, which says of which upstream."""

    def on_judged(self, model: str, opening: int, failed: bool) -> None:
        """The upstream of the service's ``opening`` of ``model`` gave an answer."""
        answers = self._of(model).answers
        last = answers[-1] if answers else None
        if last is None or last[0] != opening or (last[2] and not failed):
            last = [opening, 0, 0]
            answers.append(last)
        last[2 if failed else 1] += 1

    def on_suspect(self, model: str, opening: int) -> None:
        """It refused a connection or broke it off."""
        self._add("suspect", model, opening)
        self.flush()

    def on_lost(self, model: str, opening: int) -> None:
        """It is another node's gateway, which did not take a request."""
        self._add("lost", model, opening)
        self.flush()

    # --- keys and log ---------------------------------------------------------------------

    def on_left(self, key: str) -> None:
        """A request of a limited key has ended; ``key``: the hash of its secret."""
        self._add("left", key)
        self.flush()

    def on_line(self, level: int, logger: str, message: str) -> None:
        """A line for the service's log."""
        self._add("line", level, logger, message)
        self.flush()
