"""Which loaded model answers where: admits, holds and drains requests.

Lives on the gateway's event loop. Stages open a model when it is ready and close it before it
is unloaded, so that no request ever races an unload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from modelium.errors import ModeliumError, Unavailable, UnknownModel
from modelium.models import Priority, Upstream
from modelium.routing.model_queue import Desk
from modelium.traffic import TrafficBook

ASK_AGAIN_S = 2.0
"""While somebody waits, the model is asked for this often: a trigger that was lost (a restart
of the loop, an unload that was still going on) strands nobody for longer."""


class RoutingListener(Protocol):
    """Acts on what requests show. Called on the event loop; every method must return at once."""

    def on_demand(self, model: str) -> None:
        """Requests wait for ``model``, which is closed. Called again and again while they do."""

    def on_unreachable(self, model: str) -> None:
        """The upstream of ``model``, which is open, refused a connection."""


class RoutingMetrics(Protocol):
    """Counts waits. Cheap, never raises."""

    def on_request_held(self, model: str, waited_s: float) -> None:
        """A request stopped waiting for ``model`` after ``waited_s``, admitted or not."""

    def on_cold_start(self, model: str) -> None:
        """``model`` opened while requests waited for it."""


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
        ask_again_s: float = ASK_AGAIN_S,
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
            ask_again_s: interval at which demand is reported while requests wait.
        """
        self.traffic = traffic
        self._listener = listener
        self._metrics = metrics
        self._max_waiting_per_model = max_waiting_per_model
        self._max_wait_s = max_wait_s
        self._max_waiting = max_waiting
        self._ask_again_s = ask_again_s
        self._waiting = 0
        self._suspects: set[str] = set()
        self._known: dict[str, int | None] = {}
        self._desks: dict[str, Desk] = {}

    def know(self, names: Iterable[str] | Mapping[str, int]) -> None:
        """Set which models exist; requests for any other are refused as unknown, not held.

        Open models stay known: they answer, whatever an older list says.

        Args:
            names: of all models; a mapping says which version of each a load would bring.
        """
        opened = {m: desk.version for m, desk in self._desks.items() if desk.upstream is not None}
        self._known = {**opened, **(names if isinstance(names, Mapping) else dict.fromkeys(names))}
        for model in self._desks.keys() - self._known.keys():
            desk = self._desks[model]
            desk.wake(_unknown(model))
            if desk.idle:
                del self._desks[model]

    def open(self, model: str, upstream: Upstream, *, version: int | None = None) -> None:
        """Route to ``upstream``; wakes everybody who waits for ``model``, and makes it known.

        ``version``: which one answers there; ``None``: the one that is known.
        """
        desk = self._desk(model)
        desk.version = version or self._known.get(model)
        self._known.setdefault(model, desk.version)
        if desk.waiting and desk.upstream is None:
            self._metrics.on_cold_start(model)
        desk.upstream = upstream
        desk.expectation = ""
        self._suspects.discard(model)
        desk.wake(None)

    def close(self, model: str) -> None:
        """Make new arrivals for ``model`` wait from now on."""
        self._suspects.discard(model)
        if model in self._desks:
            self._desks[model].upstream = None

    def suspect(self, model: str) -> None:
        """Note that the upstream of ``model`` did not answer, and have somebody look."""
        if self.upstream(model) is not None:
            self._suspects.add(model)
            self._listener.on_unreachable(model)

    def is_suspect(self, model: str) -> bool:
        """Whether the upstream of ``model`` did not answer since it was opened."""
        return model in self._suspects

    def refuse(self, model: str, error: ModeliumError, *, retry_after_s: float) -> None:
        """Tell everybody who waits for ``model`` that it will not come; later arrivals ask anew."""
        if model in self._desks:
            refusal = Unavailable(str(error), retry_after_s=retry_after_s)
            refusal.reason = error.reason
            self._desks[model].wake(refusal)

    def refuse_all(self, error: ModeliumError, *, retry_after_s: float) -> None:
        """Do as `refuse` for every model."""
        for model in self._desks:
            self.refuse(model, error, retry_after_s=retry_after_s)

    def expect(self, model: str, *, ready_in_s: float, reason: str = "") -> None:
        """Set what those are told who wait too long for ``model``, until it opens.

        Args:
            model: whose waiters.
            ready_in_s: seconds until it probably answers; becomes their Retry-After.
            reason: why it takes so long, e.g. behind which model it is queued.
        """
        desk = self._desk(model)
        desk.retry_after_s = ready_in_s
        desk.expectation = reason

    def upstream(self, model: str) -> Upstream | None:
        """Where ``model`` answers, if it is open."""
        desk = self._desks.get(model)
        return desk.upstream if desk else None

    async def drained(self, model: str, *, timeout_s: float) -> bool:
        """Wait until nothing of ``model`` is in flight; False when ``timeout_s`` passed first."""
        desk = self._desks.get(model)
        if desk is None or not desk.in_flight:
            return True
        if desk.empty is None:
            desk.empty = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait({desk.empty}, timeout=timeout_s)
        return bool(done)

    def admit(
        self, model: str, *, version: int | None = None, priority: Priority | None = None
    ) -> Admission:
        """Return a place at ``model``, to be entered.

        Args:
            model: its name.
            version: the only one that will do; ``None``: any.
            priority: the class of who asks; planners rank a waited-for model by it.
        """
        return Admission(board=self, model=model, version=version, priority=priority)

    def arrive(self, model: str, version: int | None) -> Desk:
        """Count an arrival; raises as `Admission`."""
        if model not in self._known:
            raise _unknown(model)
        self.traffic.on_arrival(model)
        desk = self._desk(model)
        if version is not None:
            self.check(model, desk, version)
        return desk

    async def opened(self, model: str, desk: Desk, priority: Priority | None) -> Upstream:
        """Wait for ``desk`` to open, within the bounds; raises as `Admission`."""
        if desk.waiting >= self._max_waiting_per_model or self._waiting >= self._max_waiting:
            if not desk.waiting:
                # Nobody may wait: the demand is there all the same.
                self.traffic.on_waiting(model, +1, priority)
                self._listener.on_demand(model)
                self.traffic.on_waiting(model, -1, priority)
            raise desk.unavailable(f"{model} is not loaded, and too many requests wait already")
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        desk.waiting += 1
        self._waiting += 1
        self.traffic.on_waiting(model, +1, priority)
        try:
            if desk.waiting == 1:
                self._ask(model, desk)
            while desk.upstream is None:
                left = arrived + self._max_wait_s - loop.time()
                done, _ = await asyncio.wait({desk.gate()}, timeout=max(0.0, left))
                if not done:
                    raise desk.unavailable(
                        f"{model} was not loaded within {self._max_wait_s:g} s; it is still wanted"
                    )
                refusal = done.pop().result()
                if refusal is not None:
                    # One instance per waiter: tracebacks would grow on a shared one.
                    raise _copy(refusal) from refusal
            return desk.upstream
        finally:
            desk.waiting -= 1
            self._waiting -= 1
            self.traffic.on_waiting(model, -1, priority)
            self._metrics.on_request_held(model, loop.time() - arrived)
            if not desk.waiting and desk.asking is not None:
                desk.asking.cancel()
                desk.asking = None

    def check(self, model: str, desk: Desk, version: int) -> None:
        """Raise where ``version`` of ``model`` neither answers nor would come with a load."""
        registered = self._known.get(model)
        served = registered if desk.upstream is None else desk.version
        if version == served:
            return
        if version == registered:
            raise desk.unavailable(f"version {version} of {model} is about to replace {served}")
        raise UnknownModel(f"version {version} of {model} is not served; version {served} is")

    def _ask(self, model: str, desk: Desk) -> None:
        """Ask for ``model`` now, and again until nobody waits for it."""
        desk.asking = asyncio.get_running_loop().call_later(
            self._ask_again_s, self._ask, model, desk
        )
        if desk.upstream is None:
            self._listener.on_demand(model)

    def _desk(self, model: str) -> Desk:
        desk = self._desks.get(model)
        if desk is None:
            desk = self._desks[model] = Desk()
        return desk


class Admission:
    """A place at a model, held for as long as it is entered, and counted as in flight.

    An async context manager rather than a generator, which would cost several times as much.
    Entering waits for the model to open (asking for it) and returns where it answers. An
    exception that leaves the body counts as a failed request; cancellation does not.

    Raises:
        UnknownModel: there is no such model, or another version of it is served.
        Unavailable: too many wait, the wait was too long, or it cannot be loaded
            (with the reason); ``retry_after_s`` is set on the error.
    """

    __slots__ = ("_board", "_desk", "_model", "_priority", "_started", "_version")

    def __init__(
        self, *, board: Switchboard, model: str, version: int | None, priority: Priority | None
    ) -> None:
        self._board = board
        self._model = model
        self._version = version
        self._priority = priority

    async def __aenter__(self) -> Upstream:
        board, model = self._board, self._model
        desk = board.arrive(model, self._version)
        # No await stands between the check that it is open and the count: an unload that
        # closes the desk after the check finds the request in flight.
        upstream = desk.upstream or await board.opened(model, desk, self._priority)
        if self._version is not None:
            board.check(model, desk, self._version)
        desk.in_flight += 1
        board.traffic.on_started(model)
        self._desk = desk
        self._started = asyncio.get_running_loop().time()
        return upstream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        desk = self._desk
        desk.in_flight -= 1
        self._board.traffic.on_finished(
            self._model,
            latency_s=asyncio.get_running_loop().time() - self._started,
            failed=isinstance(error, Exception),
        )
        desk.report_empty()


def _unknown(model: str) -> UnknownModel:
    return UnknownModel(f"no model is named {model!r}; GET /v1/models lists them")


def _copy(error: ModeliumError) -> ModeliumError:
    if isinstance(error, Unavailable):
        twin = Unavailable(str(error), retry_after_s=error.retry_after_s)
        twin.reason = error.reason
        return twin
    return type(error)(*error.args)
