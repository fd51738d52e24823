"""Replays a trace of requests on simulated devices under several policies, in simulated time.

A discrete-event simulation: requests arrive, models load (one at a time per device), serve up to a
number of requests at once, and are evicted as the policy decides. With ``cache_only`` there is
neither service nor queueing and the devices are one pool: loads take no time and are only counted.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from agents.replay.policy import Assignment, ReplayPolicy, split_degree
from agents.replay.result import ReplayResult, finite, percentile
from agents.replay.traces import ReplayModel, Trace
from modelium.errors import InputError

CONCURRENCY = 16
"""Requests that a loaded model serves at once, a usual batch; more wait at the engine."""

RETRIES = 4
"""Waiting models tried when memory is freed; the ones behind them are tried the next time."""


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
        policy: ReplayPolicy,
        slo_s: float = 30.0,
        cache_only: bool = False,
        concurrency: int = CONCURRENCY,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take the devices empty.

        Args:
            trace: requests and models.
            devices: usable bytes of each.
            policy: decides.
            slo_s: longest wait for a model that meets the objective.
            cache_only: see the module.
            concurrency: requests that a model serves at once.
            timer: measures how long decisions take, in seconds.
        """
        self.models: Sequence[ReplayModel] = trace.models
        self._trace = trace
        self._capacities = (sum(devices),) if cache_only else tuple(devices)
        self._policy = policy
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
        self._decision_s: list[float] = []

    # --- `policy.DevicePool` --------------------------------------------------------------

    def free(self, device: int) -> int:
        """Return the free bytes of ``device``."""
        return self._free[device]

    def capacities(self) -> Sequence[int]:
        """Return the bytes of each device."""
        return self._capacities

    def idle_on(self, device: int) -> Sequence[int]:
        """Return the models on ``device`` that may be evicted now."""
        return [m for m in self._held[device] if self.is_idle(m)]

    def idle(self) -> Sequence[int]:
        """Return the models on any device that may be evicted now."""
        return list(dict.fromkeys(m for held in self._held for m in held if self.is_idle(m)))

    def loaded(self) -> Sequence[int]:
        """Return the models that hold memory, including those still loading."""
        return list(dict.fromkeys(m for held in self._held for m in held))

    def devices_of(self, model: int) -> tuple[int, ...]:
        """Return the devices of ``model``; empty where it is not loaded."""
        return self._states[model].devices

    def is_idle(self, model: int) -> bool:
        """Whether ``model`` is ready without running or waiting requests."""
        state = self._states[model]
        return state.ready and not state.active and not state.waiting

    # --- the run --------------------------------------------------------------------------

    def run(self) -> ReplayResult:
        """Replay the trace to its end, then serve what still waits, as far as possible."""
        for request in self._trace.requests:
            self._sweep(request.t_s)
            self._until(request.t_s)
            self._pass_time(request.t_s)
            self._arrive(request.model, request.service_s)
        while self._events:
            self._until(self._events[0][0])
        return self._result()

    def _sweep(self, limit: float) -> None:
        """Let the policy load ahead at each of its sweeps until ``limit``."""
        while self._policy.sweep_s < math.inf and self._next_sweep <= limit:
            self._until(self._next_sweep)
            self._pass_time(self._next_sweep)
            if self._policy.ttl_s < math.inf:
                self._expire(self.idle())
            for model, choice in self._policy.prewarm(self._now, self):
                if model in self._wanted:
                    continue
                if self._states[model].devices:
                    raise AssertionError(f"{self._policy.name} prewarms a loaded model")
                for victim in choice.evicts:
                    self._evict(victim)
                self._place(model, choice)
                self._prewarm_s += self.models[model].load_s
            self._next_sweep += self._policy.sweep_s

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
        if state.devices and self._policy.ttl_s < math.inf:
            self._expire([model])
        self._policy.on_arrival(model, self._now)
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
            if split_degree(self.models[model].bytes, self._capacities) is None:
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
        for model in list(self._policy.rank(list(self._wanted), self._now, self))[:RETRIES]:
            if self._load(model):
                del self._wanted[model]

    def _at(self, when: float, kind: Literal["finish", "ready"], model: int) -> None:
        heapq.heappush(self._events, (when, next(self._order), kind, model))

    def _expire(self, models: Sequence[int]) -> None:
        for model in models:
            idle_s = self._now - self._states[model].last
            if (
                self.is_idle(model)
                and idle_s > self._policy.ttl_s
                and self._policy.expired(model, idle_s, self._now, self)
            ):
                self._evict(model)

    def _load(self, model: int) -> bool:
        if self._policy.ttl_s < math.inf:
            self._expire(self.idle())
        started = self._timer()
        choice = self._policy.choose(model, self._now, self)
        self._decision_s.append(self._timer() - started)
        if choice is None:
            return False
        for victim in choice.evicts:
            self._evict(victim)
        self._place(model, choice)
        self._cold += 1
        return True

    def _place(self, model: int, choice: Assignment) -> None:
        """Load ``model`` on devices that have room for it now."""
        each = self.models[model]
        share = -(-each.bytes // len(choice.devices))
        begin = self._now
        for device in choice.devices:
            self._free[device] -= share
            if self._free[device] < 0:
                raise AssertionError(f"{self._policy.name} overbooked device {device}")
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
            raise AssertionError(f"{self._policy.name} evicted a busy model")
        share = -(-self.models[model].bytes // len(state.devices))
        for device in state.devices:
            self._free[device] += share
            del self._held[device][model]
        state.devices, state.ready = (), False
        self._evictions += 1

    def _result(self) -> ReplayResult:
        first = self._trace.requests[0].t_s
        hours = max(1e-9, (self._now - first) / 3600)
        never = sum(len(s.waiting) for s in self._states) + self._unplaceable
        waits = sorted(self._waits) + [math.inf] * never
        took = sorted(self._decision_s)
        within = sum(1 for w in waits if w <= self._slo_s)
        return ReplayResult(
            policy=self._policy.name,
            requests=len(self._trace.requests),
            cold_starts=self._cold,
            load_seconds=self._load_s,
            prewarm_load_seconds=self._prewarm_s,
            evictions=self._evictions,
            evictions_per_hour=self._evictions / hours,
            unplaceable=self._unplaceable,
            wait_p50_s=None if self._cache_only else finite(percentile(waits, 0.5)),
            wait_p99_s=None if self._cache_only else finite(percentile(waits, 0.99)),
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
    known: Mapping[str, Callable[[Trace], ReplayPolicy]],
) -> list[ReplayResult]:
    """Replay ``trace`` under each of ``policies``, on the same devices.

    Args:
        trace: requests and models.
        devices: usable bytes of each.
        policies: names among ``known``.
        slo_s: longest wait for a model that meets the objective.
        cache_only: see the module.
        known: name → how to build the policy for a trace.

    Raises:
        InputError: a policy is not among ``known``.
    """
    unknown = [p for p in policies if p not in known]
    if unknown:
        raise InputError(f"unknown policy {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return [
        Simulation(
            trace=trace,
            devices=devices,
            policy=known[policy](trace),
            slo_s=slo_s,
            cache_only=cache_only,
        ).run()
        for policy in policies
    ]
