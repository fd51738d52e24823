"""Runs a trace of requests over simulated devices under one policy after another (no real time).

A discrete-event simulation: requests arrive, models load (one at a time per device), serve up
to a number of requests at once, and leave when a policy says so. ``cache_only`` leaves service
and queueing out and makes one pool of the devices: a load is instantaneous, only its price counts.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, Protocol

from agents.replay.baselines import Choice, Pool, shares
from agents.replay.traces import ReplayModel, Trace
from modelium.errors import InputError

CONCURRENCY = 16
"""Requests that a loaded model serves at once: a usual batch; more wait at the engine."""

RETRIES = 4
"""Waiting models that are tried anew when something frees: those behind them come later."""


class Keeper(Protocol):
    """A policy under replay: says where a model goes and what leaves for it."""

    name: str
    ttl_s: float
    """Nothing leaves by itself before this many idle seconds."""

    def on_arrival(self, model: int, now: float) -> None:
        """Learn of a request."""

    def expired(self, model: int, idle_s: float, now: float, pool: Pool) -> bool:
        """Whether ``model``, idle for ``idle_s``, leaves by itself."""

    def choose(self, model: int, now: float, pool: Pool) -> Choice | None:
        """Find a place; None: not now."""

    def rank(self, waiting: Sequence[int], now: float, pool: Pool) -> Sequence[int]:
        """Order the models that wait for room."""

    sweep_s: float
    """Seconds between two calls of `prewarm`; infinite: never."""

    def prewarm(self, now: float, pool: Pool) -> Sequence[tuple[int, Choice]]:
        """Name models to load ahead of requests, each with its place; nothing leaves for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one policy made of a trace. Seconds; shares 0…1; None where it has no meaning."""

    policy: str
    requests: int
    cold_starts: int
    load_seconds: float
    """Of all loads, those ahead of requests included."""
    prewarm_load_seconds: float
    evictions: int
    evictions_per_hour: float
    unplaceable: int
    """Requests for models that are larger than all devices together."""
    wait_p50_s: float | None
    wait_p99_s: float | None
    slo_attainment: float | None
    """Share of requests whose wait for the model was within the objective."""
    occupancy: float
    """Mean share of device memory that models took."""
    decisions: int
    decision_mean_s: float
    decision_p99_s: float


@dataclass(slots=True)
class _State:
    """One model in the simulation."""

    devices: tuple[int, ...] = ()
    ready: bool = False
    active: int = 0
    last: float = -math.inf
    waiting: deque[tuple[float, float]] = field(default_factory=deque)
    """(arrival, service seconds) of requests not yet served."""


Event = tuple[float, int, Literal["finish", "ready"], int]


class Simulation:
    """The devices and models of one replay. One per policy and trace."""

    def __init__(
        self,
        *,
        trace: Trace,
        devices: Sequence[int],
        keeper: Keeper,
        slo_s: float = 30.0,
        cache_only: bool = False,
        concurrency: int = CONCURRENCY,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``devices``: usable bytes each; ``timer`` measures how long decisions take."""
        self.models: Sequence[ReplayModel] = trace.models
        self._trace = trace
        self._capacities = (sum(devices),) if cache_only else tuple(devices)
        self._keeper = keeper
        self._slo_s = slo_s
        self._cache_only = cache_only
        self._concurrency = concurrency
        self._timer = timer
        self._free = list(self._capacities)
        self._held: list[dict[int, None]] = [{} for _ in self._capacities]
        self._loading_until = [0.0] * len(self._capacities)
        self._states = [_State() for _ in trace.models]
        self._wanted: dict[int, None] = {}
        self._events: list[Event] = []
        self._order = count()
        self._now = 0.0
        self._occupied = 0.0
        self._waits: list[float] = []
        self._cold = self._evictions = self._unplaceable = 0
        self._load_s = self._prewarm_s = 0.0
        self._next_sweep = 0.0
        self._took: list[float] = []

    # --- what policies see ----------------------------------------------------------------

    def free(self, device: int) -> int:
        """Bytes of ``device`` that are not taken."""
        return self._free[device]

    def capacities(self) -> Sequence[int]:
        """Bytes of each device."""
        return self._capacities

    def idle_on(self, device: int) -> Sequence[int]:
        """Models on ``device`` that could leave now."""
        return [m for m in self._held[device] if self.is_idle(m)]

    def idle(self) -> Sequence[int]:
        """Models that could leave now, on any device."""
        return list(dict.fromkeys(m for held in self._held for m in held if self.is_idle(m)))

    def loaded(self) -> Sequence[int]:
        """Models that hold memory, loading ones included."""
        return list(dict.fromkeys(m for held in self._held for m in held))

    def where(self, model: int) -> tuple[int, ...]:
        """Devices of ``model``; empty where it is not loaded."""
        return self._states[model].devices

    def is_idle(self, model: int) -> bool:
        """Whether ``model`` is loaded and nothing runs or waits in it."""
        state = self._states[model]
        return state.ready and not state.active and not state.waiting

    def pending(self, model: int) -> int:
        """Requests that wait for ``model``."""
        return len(self._states[model].waiting)

    # --- the run --------------------------------------------------------------------------

    def run(self) -> Result:
        """Play the trace to its end, and what it left waiting as far as it gets."""
        for request in self._trace.requests:
            self._sweep(request.t_s)
            self._until(request.t_s)
            self._pass_time(request.t_s)
            self._arrive(request.model, request.service_s)
        while self._events:
            self._until(self._events[0][0])
        return self._result()

    def _sweep(self, limit: float) -> None:
        """Let the keeper load ahead at each of its sweeps before ``limit``."""
        while self._keeper.sweep_s < math.inf and self._next_sweep <= limit:
            self._until(self._next_sweep)
            self._pass_time(self._next_sweep)
            if self._keeper.ttl_s < math.inf:
                self._expire(self.idle())
            for model, choice in self._keeper.prewarm(self._now, self):
                if model in self._wanted:
                    continue
                if choice.evicts or self._states[model].devices:
                    raise AssertionError(f"{self._keeper.name} prewarms what is no prewarming")
                self._place(model, choice)
                self._prewarm_s += self.models[model].load_s
            self._next_sweep += self._keeper.sweep_s

    def _until(self, limit: float) -> None:
        while self._events and self._events[0][0] <= limit:
            at, _, kind, model = heapq.heappop(self._events)
            self._pass_time(at)
            state = self._states[model]
            if kind == "ready":
                state.ready = True
                state.last = at
            else:
                state.active -= 1
                state.last = at
            self._serve(model)
            if self._wanted and self.is_idle(model):
                self._retry()

    def _pass_time(self, now: float) -> None:
        taken = sum(self._capacities) - sum(self._free)
        self._occupied += taken * max(0.0, now - self._now)
        self._now = max(self._now, now)

    def _arrive(self, model: int, service_s: float) -> None:
        state = self._states[model]
        if state.devices and self._keeper.ttl_s < math.inf:
            self._expire([model])
        self._keeper.on_arrival(model, self._now)
        if self._cache_only:
            state.last = self._now
            if not state.devices and not self._load(model):
                self._unplaceable += 1
            return
        state.waiting.append((self._now, service_s))
        state.last = self._now
        if state.ready:
            self._serve(model)
        elif not state.devices and model not in self._wanted and not self._load(model):
            if shares(self.models[model].bytes, self._capacities) is None:
                state.waiting.clear()
                self._unplaceable += 1
            else:
                self._wanted[model] = None

    def _serve(self, model: int) -> None:
        state = self._states[model]
        while state.ready and state.waiting and state.active < self._concurrency:
            arrived, service_s = state.waiting.popleft()
            self._waits.append(self._now - arrived)
            state.active += 1
            self._at(self._now + service_s, "finish", model)

    def _retry(self) -> None:
        for model in list(self._keeper.rank(list(self._wanted), self._now, self))[:RETRIES]:
            if self._load(model):
                del self._wanted[model]

    def _at(self, when: float, kind: Literal["finish", "ready"], model: int) -> None:
        heapq.heappush(self._events, (when, next(self._order), kind, model))

    def _expire(self, models: Sequence[int]) -> None:
        for model in models:
            idle_s = self._now - self._states[model].last
            if (
                self.is_idle(model)
                and idle_s > self._keeper.ttl_s
                and self._keeper.expired(model, idle_s, self._now, self)
            ):
                self._evict(model)

    def _load(self, model: int) -> bool:
        if self._keeper.ttl_s < math.inf:
            self._expire(self.idle())
        started = self._timer()
        choice = self._keeper.choose(model, self._now, self)
        self._took.append(self._timer() - started)
        if choice is None:
            return False
        for victim in choice.evicts:
            self._evict(victim)
        self._place(model, choice)
        self._cold += 1
        return True

    def _place(self, model: int, choice: Choice) -> None:
        """Load ``model`` where there is room for it by now."""
        each = self.models[model]
        share = -(-each.bytes // len(choice.devices))
        begin = self._now
        for device in choice.devices:
            self._free[device] -= share
            if self._free[device] < 0:
                raise AssertionError(f"{self._keeper.name} overbooked device {device}")
            self._held[device][model] = None
            begin = max(begin, self._loading_until[device])
        state = self._states[model]
        state.devices = choice.devices
        self._load_s += each.load_s
        if self._cache_only:
            state.ready = True
            state.last = self._now
            return
        for device in choice.devices:
            self._loading_until[device] = begin + each.load_s
        self._at(begin + each.load_s, "ready", model)

    def _evict(self, model: int) -> None:
        state = self._states[model]
        if not self.is_idle(model):
            raise AssertionError(f"{self._keeper.name} evicted a busy model")
        share = -(-self.models[model].bytes // len(state.devices))
        for device in state.devices:
            self._free[device] += share
            del self._held[device][model]
        state.devices, state.ready = (), False
        self._evictions += 1

    def _result(self) -> Result:
        first = self._trace.requests[0].t_s
        hours = max(1e-9, (self._now - first) / 3600)
        never = sum(len(s.waiting) for s in self._states) + self._unplaceable
        waits = sorted(self._waits) + [math.inf] * never
        took = sorted(self._took)
        within = sum(1 for w in waits if w <= self._slo_s)
        return Result(
            policy=self._keeper.name,
            requests=len(self._trace.requests),
            cold_starts=self._cold,
            load_seconds=self._load_s,
            prewarm_load_seconds=self._prewarm_s,
            evictions=self._evictions,
            evictions_per_hour=self._evictions / hours,
            unplaceable=self._unplaceable,
            wait_p50_s=None if self._cache_only else _finite(percentile(waits, 0.5)),
            wait_p99_s=None if self._cache_only else _finite(percentile(waits, 0.99)),
            slo_attainment=None if self._cache_only else within / max(1, len(waits)),
            occupancy=self._occupied / max(1e-9, (self._now - first) * sum(self._capacities)),
            decisions=len(took),
            decision_mean_s=sum(took) / max(1, len(took)),
            decision_p99_s=percentile(took, 0.99),
        )


def replay(
    trace: Trace,
    devices: Sequence[int],
    policies: Sequence[str],
    *,
    slo_s: float = 30.0,
    cache_only: bool = False,
    keepers: Mapping[str, Callable[[Trace], Keeper]],
) -> list[Result]:
    """Replay ``trace`` under each of ``policies``, all on the same devices.

    Raises:
        InputError: a policy is not among ``keepers``.
    """
    unknown = [p for p in policies if p not in keepers]
    if unknown:
        raise InputError(f"no policy {', '.join(unknown)}; there are {', '.join(sorted(keepers))}")
    return [
        Simulation(
            trace=trace,
            devices=devices,
            keeper=keepers[policy](trace),
            slo_s=slo_s,
            cache_only=cache_only,
        ).run()
        for policy in policies
    ]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of a sorted sequence; 0 where it is empty."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
