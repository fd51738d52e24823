"""Admission of requests: those for a loaded model pass, others wait within bounds.

Lives on the gateway's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from modelium.errors import ModeliumError, Unavailable, UnknownModel
from modelium.models import Priority, Upstream
from modelium.routing.model_queue import ModelQueue

REPEAT_DEMAND_S = 2.0
"""Interval at which demand is reported while requests wait: a report that was lost (a restart of
the control loop, an unload that was still running) delays them by no more than this."""


class DemandListener(Protocol):
    """Learns which models requests wait for."""

    def on_demand(self, model: str) -> None:
        """Requests wait for ``model``, which is closed.

        Called on the event loop, again and again while they wait; must return at once.
        """


class RoutingMetrics(Protocol):
    """Counts waits. Cheap, never raises."""

    def on_request_held(self, model: str, waited_s: float) -> None:
        """A request stopped waiting for ``model`` after ``waited_s``, admitted or not."""

    def on_cold_start(self, model: str) -> None:
        """``model`` opened while requests waited for it."""


class RequestCounts(Protocol):
    """Counts requests: `TrafficBook`, or what a worker reports to it."""

    def on_arrival(self, model: str) -> None:
        """A request for ``model`` arrived."""

    def on_waiting(self, model: str, change: int, priority: Priority | None = None) -> None:
        """``change`` (+1/-1) requests of the class ``priority`` wait for ``model``."""

    def on_started(self, model: str) -> None:
        """A request is forwarded to the engine."""

    def on_finished(self, model: str, *, latency_s: float, failed: bool) -> None:
        """It has ended."""


class AdmissionControl:
    """Bounds how many requests wait and for how long, and reports demand while they do."""

    def __init__(
        self,
        *,
        traffic: RequestCounts,
        listener: DemandListener,
        metrics: RoutingMetrics,
        max_waiting_per_model: int,
        max_waiting: int,
        max_wait_s: float,
        repeat_demand_s: float,
    ) -> None:
        """Start with no request waiting; `modelium.routing.switchboard` explains the arguments."""
        self.traffic = traffic
        self._listener = listener
        self._metrics = metrics
        self.limit(
            max_waiting_per_model=max_waiting_per_model,
            max_waiting=max_waiting,
            max_wait_s=max_wait_s,
        )
        self._repeat_demand_s = repeat_demand_s
        self._waiting = 0

    def limit(self, *, max_waiting_per_model: int, max_waiting: int, max_wait_s: float) -> None:
        """Set the limits; requests that wait already are not refused for them at once."""
        self._max_waiting_per_model = max_waiting_per_model
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s

    @property
    def limits(self) -> dict[str, Any]:
        """The arguments of `limit` that apply."""
        return {
            "max_waiting_per_model": self._max_waiting_per_model,
            "max_waiting": self._max_waiting,
            "max_wait_s": self._max_wait_s,
        }

    async def wait(
        self, queue: ModelQueue, priority: Priority | None, since: float | None = None
    ) -> Upstream:
        """Wait until the model of ``queue`` opens; raises as `Admission`.

        ``since``: when the request began to wait, by the loop's time; ``None``: now.
        """
        model = queue.model
        if queue.waiting >= self._max_waiting_per_model or self._waiting >= self._max_waiting:
            if not queue.waiting:
                # No request may wait, but this one is demand all the same.
                self.traffic.on_waiting(model, +1, priority)
                self._listener.on_demand(model)
                self.traffic.on_waiting(model, -1, priority)
            raise queue.unavailable(f"{model} is not loaded and too many requests already wait")
        loop = asyncio.get_running_loop()
        now = loop.time()
        arrived = now if since is None else since
        queue.waiting += 1
        self._waiting += 1
        self.traffic.on_waiting(model, +1, priority)
        try:
            if queue.waiting == 1:
                self._report_demand(queue)
            while queue.upstream is None:
                left = arrived + self._max_wait_s - loop.time()
                done, _ = await asyncio.wait({queue.gate()}, timeout=left)
                if not done:
                    raise queue.unavailable(
                        f"{model} was not ready within {self._max_wait_s:g} s; "
                        "a load in progress continues"
                    )
                refusal = done.pop().result()
                if refusal is not None:
                    # One instance per request: tracebacks would accumulate on a shared one.
                    raise _copy(refusal) from refusal
            return queue.upstream
        finally:
            queue.waiting -= 1
            self._waiting -= 1
            self.traffic.on_waiting(model, -1, priority)
            self._metrics.on_request_held(model, loop.time() - now)
            if not queue.waiting and queue.demand_timer is not None:
                queue.demand_timer.cancel()
                queue.demand_timer = None

    def _report_demand(self, queue: ModelQueue) -> None:
        """Report demand now, and repeatedly until no request waits."""
        queue.demand_timer = asyncio.get_running_loop().call_later(
            self._repeat_demand_s, self._report_demand, queue
        )
        self._listener.on_demand(queue.model)


class Admission:
    """An async context manager that holds a request's place at a model.

    Entering waits for the model to open and returns its upstream; until it is left, the request
    counts as in flight. An exception that leaves the body counts as a failed request,
    cancellation does not. (A class rather than a generator, which would cost several times as
    much.)

    Raises:
        UnknownModel: no such model, or another version of it is served.
        Unavailable: too many requests wait, the wait was too long, or the model cannot be loaded
            (the message says why); ``retry_after_s`` is set.
    """

    __slots__ = (
        "_arrives",
        "_control",
        "_elsewhere",
        "_find",
        "_model",
        "_priority",
        "_queue",
        "_since",
        "_started",
        "_version",
    )

    def __init__(
        self,
        *,
        control: AdmissionControl,
        find: Callable[[str], ModelQueue],
        model: str,
        version: int | None,
        priority: Priority | None,
        arrives: bool = True,
        since: float | None = None,
    ) -> None:
        """``find``: returns a model's queue, or raises `UnknownModel`; else as `admit`."""
        self._control = control
        self._find = find
        self._model = model
        self._version = version
        self._priority = priority
        self._arrives = arrives
        self._since = since

    async def __aenter__(self) -> Upstream:
        control, version = self._control, self._version
        queue = self._find(self._model)
        if self._arrives:
            control.traffic.on_arrival(self._model)
        if version is not None:
            check_version(queue, version)
        # There is no await between the check that the model is open and the count: an unload
        # that closes it after the check finds the request in flight.
        upstream = queue.upstream or await control.wait(queue, self._priority, self._since)
        if version is not None:
            check_version(queue, version)
        queue.in_flight += 1
        # The gateway beside the engine counts what it is given.
        self._elsewhere = bool(upstream.peer)
        if not self._elsewhere:
            control.traffic.on_started(self._model)
        self._queue = queue
        self._started = asyncio.get_running_loop().time()
        return upstream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if not self._elsewhere:
            self._control.traffic.on_finished(
                self._model,
                latency_s=asyncio.get_running_loop().time() - self._started,
                failed=isinstance(error, Exception),
            )
        self._queue.on_finished()


def check_version(queue: ModelQueue, version: int) -> None:
    """Check that ``version`` is served or, while the model is closed, what a load would bring.

    Raises:
        Unavailable: it is registered, but an older version is still served.
        UnknownModel: it is neither.
    """
    served = queue.registered if queue.upstream is None else queue.version
    if version == served:
        return
    if version == queue.registered:
        raise queue.unavailable(
            f"version {version} of {queue.model} will replace version {served}, "
            "which is still served"
        )
    raise UnknownModel(f"version {version} of {queue.model} is not available; version {served} is")


def _copy(error: ModeliumError) -> ModeliumError:
    if isinstance(error, Unavailable):
        twin = Unavailable(str(error), retry_after_s=error.retry_after_s)
        twin.reason = error.reason
        return twin
    return type(error)(*error.args)
