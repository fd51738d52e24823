"""The routing table: which loaded model answers at which upstream.

Lives on the gateway's event loop. Stages open a model when it is ready and close it before it
is unloaded, so that no request ever races an unload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from modelium.errors import ModeliumError, Unavailable, UnknownModel
from modelium.models import Priority, Upstream
from modelium.policy.trial import Answers
from modelium.routing.admission import (
    REPEAT_DEMAND_S,
    Admission,
    AdmissionControl,
    DemandListener,
    RequestCounts,
    RoutingMetrics,
)
from modelium.routing.mirror import Mirror, Mirrors
from modelium.routing.model_queue import ModelQueue
from modelium.traffic import TrafficBook

SHOWN = 256
"""Characters of an unknown name that its error repeats."""

FAILURES_TOLD = 10
"""Failed answers of an upstream that the listener is told of: they decide whether it stays."""


class RoutingListener(DemandListener, Protocol):
    """Acts on what requests show. Called on the event loop; every method must return at once."""

    def on_unreachable(self, model: str) -> None:
        """The upstream of ``model``, which is open, refused a connection or broke it off."""

    def on_failed_answer(self, model: str) -> None:
        """The upstream of ``model`` answered with a server's error."""


class Switchboard:
    """The in-memory routing table."""

    def __init__(
        self,
        *,
        traffic: TrafficBook,
        listener: RoutingListener,
        metrics: RoutingMetrics,
        max_waiting_per_model: int,
        max_wait_s: float,
        max_waiting: int = 4096,
        repeat_demand_s: float = REPEAT_DEMAND_S,
        counts: RequestCounts | None = None,
    ) -> None:
        """Start with every model closed.

        Args:
            traffic: counts arrivals, waits and answers.
            listener: loads models in demand and examines unreachable ones.
            metrics: counts waits and cold starts.
            max_waiting_per_model: requests that may wait for one model.
            max_wait_s: how long a request may wait.
            max_waiting: requests that may wait for all models together; each holds its body
                in memory.
            repeat_demand_s: interval at which demand is reported while requests wait.
            counts: counts in place of ``traffic``, where another process keeps that.
        """
        self.traffic = traffic
        self._listener = listener
        self._metrics = metrics
        self._control = AdmissionControl(
            traffic=counts or traffic,
            listener=listener,
            metrics=metrics,
            max_waiting_per_model=max_waiting_per_model,
            max_waiting=max_waiting,
            max_wait_s=max_wait_s,
            repeat_demand_s=repeat_demand_s,
        )
        self._suspects: set[str] = set()
        self._known: dict[str, int | None] = {}
        self._queues: dict[str, ModelQueue] = {}
        self._aside: dict[str, ModelQueue] = {}
        """Requests in flight at upstreams that serve no new ones, by the twin's name."""
        self._mirrors = Mirrors()

    def attach(self, mirror: Mirror) -> None:
        """Have ``mirror`` told of all that is routed now, and of every change."""
        mirror.limit(**self._control.limits)
        mirror.know(self._known)
        for model, queue in self._queues.items():
            if queue.upstream is not None:
                mirror.open(model, queue.upstream, version=queue.version)
            else:
                mirror.expect(model, ready_in_s=queue.retry_after_s, reason=queue.reason)
        self._mirrors.add(mirror)

    def detach(self, mirror: Mirror) -> None:
        """Tell ``mirror`` nothing any more."""
        self._mirrors.discard(mirror)

    def demand(self, model: str) -> None:
        """Report that requests wait for ``model`` at a mirror."""
        if model in self._known and self.upstream(model) is None:
            self._listener.on_demand(model)

    def limit(self, *, max_waiting_per_model: int, max_waiting: int, max_wait_s: float) -> None:
        """Have other limits apply from now on; waiting requests keep waiting at most as long."""
        self._control.limit(
            max_waiting_per_model=max_waiting_per_model,
            max_waiting=max_waiting,
            max_wait_s=max_wait_s,
        )
        self._mirrors.limit(**self._control.limits)

    def know(self, names: Iterable[str] | Mapping[str, int]) -> None:
        """Set which models exist; requests for any other are refused as unknown.

        Open models stay known even if ``names`` lacks them: an older list may arrive late.

        Args:
            names: of all models; a mapping gives the version that a load of each would bring.
        """
        opened = {m: queue.version for m, queue in self._queues.items() if queue.upstream}
        before = self._known
        self._known = {**opened, **(names if isinstance(names, Mapping) else dict.fromkeys(names))}
        if self._known != before:
            self._mirrors.know(self._known)
        for model, queue in tuple(self._queues.items()):
            queue.registered = self._known.get(model)
            if model not in self._known:
                queue.release(UnknownModel(f"{model} was removed; GET /v1/models lists all models"))
                if not queue.in_flight:
                    del self._queues[model]

    def open(self, model: str, upstream: Upstream, *, version: int | None = None) -> None:
        """Route to ``upstream`` and release the requests that wait; makes ``model`` known.

        Args:
            model: its name.
            upstream: where it answers.
            version: the one that answers there; ``None``: the one that is known.
        """
        queue = self._queue(model)
        queue.version = version or self._known.get(model)
        queue.registered = self._known.setdefault(model, queue.version)
        if queue.upstream is None and (queue.waiting or self.traffic.pending(model)):
            self._metrics.on_cold_start(model)
        if queue.upstream != upstream:
            queue.count_anew()
        queue.upstream = upstream
        queue.reason = ""
        self._suspects.discard(model)
        queue.release(None)
        self._mirrors.open(model, upstream, version=queue.version)

    def switch(self, model: str, upstream: Upstream, *, version: int, aside: str) -> None:
        """Route new requests for ``model`` to ``upstream``; those in flight end where they are.

        ``aside``: the name under which `drained` waits for the latter.
        """
        self.set_aside(model, aside)
        self.open(model, upstream, version=version)

    def set_aside(self, model: str, aside: str) -> None:
        """Close ``model``; `drained` waits for its requests in flight under the name ``aside``."""
        old = self._queues.get(model)
        if old is not None and old.upstream is not None:
            self._aside[aside] = self._queues.pop(model)
        self._mirrors.set_aside(model, aside)

    def judge(self, model: str, upstream: Upstream, *, failed: bool) -> None:
        """Count an answer of ``upstream``; the listener is told of a failed one."""
        queue = self._queues.get(model)
        if queue is None or (queue.upstream is not upstream and queue.upstream != upstream):
            return
        queue.answered += 1
        queue.failing = queue.failing + 1 if failed else 0
        if failed:
            queue.errors += 1
            if queue.errors <= FAILURES_TOLD:
                self._listener.on_failed_answer(model)

    def answers(self, model: str) -> Answers:
        """Return what ``model`` has answered since its upstream was opened."""
        queue = self._queues.get(model)
        if queue is None or queue.upstream is None:
            return Answers()
        return Answers(version=queue.version, total=queue.answered, failed=queue.errors)

    def failing(self, model: str) -> int:
        """Return how many of its answers in a row have failed, up to the last one."""
        queue = self._queues.get(model)
        return queue.failing if queue is not None and queue.upstream is not None else 0

    def forgive(self, model: str) -> None:
        """Start to count the failed answers of ``model`` anew: they were its clients' fault."""
        if model in self._queues:
            self._queues[model].failing = 0

    def close(self, model: str) -> None:
        """Make new requests for ``model`` wait from now on."""
        self._suspects.discard(model)
        if model in self._queues:
            self._queues[model].upstream = None
        self._mirrors.close(model)

    def lost(self, model: str, upstream: Upstream) -> bool:
        """Close ``model`` at ``upstream``, another node's gateway that did not take a request.

        Requests wait, as for any closed model, until it is opened there again or elsewhere; until
        then it is suspect.

        Args:
            model: its name.
            upstream: as `admit` returned it.

        Returns:
            False: it was closed, or opened anew, before.
        """
        queue = self._queues.get(model)
        if queue is None or queue.upstream is not upstream:
            return False
        self.suspect(model)
        queue.upstream = None
        self._mirrors.close(model)
        return True

    def suspect(self, model: str) -> None:
        """Mark the upstream of ``model`` as unreachable and report it to the listener."""
        if self.upstream(model) is not None:
            self._suspects.add(model)
            self._listener.on_unreachable(model)

    def is_suspect(self, model: str) -> bool:
        """Whether the upstream of ``model`` was unreachable since it was opened."""
        return model in self._suspects

    def refuse(self, model: str, error: ModeliumError, *, retry_after_s: float) -> None:
        """Refuse the requests that wait for ``model`` now; later ones report demand again."""
        if model in self._queues:
            refusal = Unavailable(str(error), retry_after_s=retry_after_s)
            refusal.reason = error.reason
            self._queues[model].release(refusal)
        self._mirrors.refuse(model, error, retry_after_s=retry_after_s)

    def refuse_all(self, error: ModeliumError, *, retry_after_s: float) -> None:
        """Refuse the requests that wait for any model, as `refuse` does."""
        for model in {*self._queues, *self._known}:
            self.refuse(model, error, retry_after_s=retry_after_s)

    def expect(self, model: str, *, ready_in_s: float, reason: str = "") -> None:
        """Set what the 503 of a request that waits too long for ``model`` says, until it opens.

        Args:
            model: its name.
            ready_in_s: estimated seconds until it answers: the Retry-After.
            reason: why the load takes so long, e.g. behind which model it is queued.
        """
        queue = self._queue(model)
        queue.retry_after_s = ready_in_s
        queue.reason = reason
        self._mirrors.expect(model, ready_in_s=ready_in_s, reason=reason)

    def upstream(self, model: str) -> Upstream | None:
        """Where ``model`` answers, if it is open."""
        queue = self._queues.get(model)
        return queue.upstream if queue else None

    async def drained(self, model: str, *, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` for the requests in flight; False if some still are."""
        elsewhere = self._mirrors.drained(model, timeout_s=timeout_s)
        return all(await asyncio.gather(self._drained(model, timeout_s), elsewhere))

    async def _drained(self, model: str, timeout_s: float) -> bool:
        queue = self._aside.get(model) or self._queues.get(model)
        if queue is None or not queue.in_flight:
            self._aside.pop(model, None)
            return True
        done, _ = await asyncio.wait({queue.drained()}, timeout=timeout_s)
        return bool(done)

    def admit(
        self,
        model: str,
        *,
        version: int | None = None,
        priority: Priority | None = None,
        arrives: bool = True,
        since: float | None = None,
    ) -> Admission:
        """Return the admission of one request; entering it waits.

        Args:
            model: its name.
            version: the only acceptable one; ``None``: any.
            priority: the request's class; planners rank a model by its best waiting request.
            arrives: whether its arrival counts; not where another gateway has counted it.
            since: when its wait began, by the loop's time; ``None``: it has not waited yet.
        """
        return Admission(
            control=self._control,
            find=self._find,
            model=model,
            version=version,
            priority=priority,
            arrives=arrives,
            since=since,
        )

    def _find(self, model: str) -> ModelQueue:
        """Return the queue of a known model, or raise `UnknownModel`."""
        if model not in self._known:
            raise unknown(model)
        return self._queue(model)

    def _queue(self, model: str) -> ModelQueue:
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = ModelQueue(model)
            queue.registered = self._known.get(model)
        return queue


def unknown(model: str) -> UnknownModel:
    """Return the error for a request that names no model."""
    shown = repr(model) if len(model) <= SHOWN else f"{model[:SHOWN]!r}… ({len(model)} characters)"
    return UnknownModel(f"no model is named {shown}; GET /v1/models lists all models")
