"""What others do, to compare with: who leaves when a replay needs room.

Each orders the models that could leave; the first in that order goes first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agents.replay.traces import ReplayModel, Trace

TTL_S = 300.0
"""Five minutes: Ollama's default keep-alive, and a common idle time-out."""


class Pool(Protocol):
    """What a policy may see of a replay's devices."""

    models: Sequence[ReplayModel]

    def free(self, device: int) -> int:
        """Bytes of ``device`` that are not taken."""

    def capacities(self) -> Sequence[int]:
        """Bytes of each device."""

    def idle_on(self, device: int) -> Sequence[int]:
        """Models on ``device`` that could leave now."""

    def idle(self) -> Sequence[int]:
        """Models that could leave now, on any device."""

    def loaded(self) -> Sequence[int]:
        """Models that hold memory, loading ones included."""

    def where(self, model: int) -> tuple[int, ...]:
        """Devices of ``model``; empty where it is not loaded."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a model is loaded and what leaves for it."""

    devices: tuple[int, ...]
    evicts: tuple[int, ...] = ()


Score = Callable[[int, float], float]
"""(model, now) → how much it is worth keeping; the least goes first."""


def shares(size: int, capacities: Sequence[int]) -> int | None:
    """Return over how many devices (1, 2, 4 …) ``size`` bytes must be split; None: too large."""
    degree = 1
    while degree <= len(capacities):
        if sum(1 for c in capacities if c >= -(-size // degree)) >= degree:
            return degree
        degree *= 2
    return None


Learn = Callable[[int, float], None]


def _nothing(_a: object, _b: object = None) -> None:
    """Learn nothing."""


class Scored:
    """Evicts by a score, on the devices where the most valuable victim is worth least.

    Free room goes first, on the fullest device that fits.
    """

    def __init__(
        self,
        *,
        name: str,
        score: Score,
        learn: Learn = _nothing,
        evicted: Callable[[float], None] = _nothing,
        ttl_s: float = math.inf,
        alone: bool = False,
        exact: bool = False,
    ) -> None:
        """Build it from its parts.

        Args:
            name: as tables show it.
            score: asked at the moment of an eviction.
            learn: told of each arrival.
            evicted: told the score of each victim.
            ttl_s: idle seconds after which a model leaves by itself.
            alone: keep one model at a time.
            exact: spare victims that turn out not to be needed, most valuable first.
        """
        self.name = name
        self.ttl_s = ttl_s
        self.sweep_s = math.inf
        self._learn = learn
        self._score = score
        self._evicted = evicted
        self._alone = alone
        self._exact = exact

    def on_arrival(self, model: int, now: float) -> None:
        """Learn of a request."""
        self._learn(model, now)

    def expired(self, model: int, idle_s: float, now: float, pool: Pool) -> bool:
        """Whether ``model`` leaves by itself."""
        return idle_s > self.ttl_s

    def rank(self, waiting: Sequence[int], now: float, pool: Pool) -> Sequence[int]:
        """First come, first served."""
        return waiting

    def prewarm(self, now: float, pool: Pool) -> Sequence[tuple[int, Choice]]:
        """Load nothing ahead."""
        return ()

    def choose(self, model: int, now: float, pool: Pool) -> Choice | None:
        """Find devices for ``model``; None where what is idle does not suffice."""
        capacities = pool.capacities()
        degree = shares(pool.models[model].bytes, capacities)
        if degree is None:
            return None
        need = -(-pool.models[model].bytes // degree)
        found: list[tuple[float, int, int, tuple[int, ...]]] = []
        for device, capacity in enumerate(capacities):
            victims = self._victims(device, need, now, pool) if capacity >= need else None
            if victims is not None:
                worst = max((self._score(v, now) for v in victims), default=-math.inf)
                found.append((worst, pool.free(device), device, victims))
        if len(found) < degree:
            return None
        chosen = sorted(found)[:degree]
        leaving = dict.fromkeys(v for _, _, _, victims in chosen for v in victims)
        if self._alone:
            leaving |= dict.fromkeys(pool.idle())
        for victim in leaving:
            self._evicted(self._score(victim, now))
        return Choice(tuple(d for _, _, d, _ in chosen), tuple(leaving))

    def _victims(self, device: int, need: int, now: float, pool: Pool) -> tuple[int, ...] | None:
        free = pool.free(device)
        chosen: list[int] = []
        if free >= need:
            return ()
        for victim in sorted(pool.idle_on(device), key=lambda v: self._score(v, now)):
            chosen.append(victim)
            free += _share(victim, pool)
            if free >= need:
                break
        else:
            return None
        if self._exact:
            for victim in sorted(chosen, key=lambda v: -self._score(v, now)):
                if free - _share(victim, pool) >= need:
                    free -= _share(victim, pool)
                    chosen.remove(victim)
        return tuple(chosen)


def _share(model: int, pool: Pool) -> int:
    return -(-pool.models[model].bytes // len(pool.where(model)))


def _recency(trace: Trace, name: str, *, ttl_s: float = math.inf, alone: bool = False) -> Scored:
    last = [-math.inf] * len(trace.models)

    return Scored(
        name=name,
        score=lambda model, now: last[model],
        learn=last.__setitem__,
        ttl_s=ttl_s,
        alone=alone,
    )


def lru(trace: Trace) -> Scored:
    """Least recently used."""
    return _recency(trace, "lru")


def ttl(trace: Trace) -> Scored:
    """Unload after five idle minutes; least recently used where room is needed earlier."""
    return _recency(trace, "ttl", ttl_s=TTL_S)


def llama_swap(trace: Trace) -> Scored:
    """llama-swap with one group: one model at a time."""
    return _recency(trace, "llama-swap", alone=True)


def ollama(trace: Trace) -> Scored:
    """Ollama: the shortest keep-alive goes first, then by name; all have five minutes."""
    place = {
        i: float(n)
        for n, i in enumerate(sorted(range(len(trace.models)), key=lambda i: trace.models[i].name))
    }
    return Scored(name="ollama", score=lambda model, now: place[model], ttl_s=TTL_S)


def lfu(trace: Trace) -> Scored:
    """Least frequently used since the beginning."""
    count = [0.0] * len(trace.models)

    def seen(model: int, now: float) -> None:
        count[model] += 1

    return Scored(name="lfu", score=lambda model, now: count[model], learn=seen)


def gdsf(trace: Trace) -> Scored:
    """Greedy-Dual-Size-Frequency as in FaasCache (Fuerst & Sharma, ASPLOS 2021).

    Priority = clock + frequency × load seconds ÷ size; the clock rises to each victim's.
    """
    priority = [0.0] * len(trace.models)
    count = [0.0] * len(trace.models)
    clock = [0.0]

    def seen(model: int, now: float) -> None:
        count[model] += 1
        each = trace.models[model]
        priority[model] = clock[0] + count[model] * each.load_s / each.bytes

    def evicted(score: float) -> None:
        clock[0] = max(clock[0], score)

    return Scored(
        name="gdsf", score=lambda model, now: priority[model], learn=seen, evicted=evicted
    )


def belady(trace: Trace) -> Scored:
    """Offline: knows each model's next request; load seconds per byte and second until it."""
    following = [math.inf] * len(trace.requests)
    nearest = [math.inf] * len(trace.models)
    for i in range(len(trace.requests) - 1, -1, -1):
        request = trace.requests[i]
        following[i] = nearest[request.model]
        nearest[request.model] = request.t_s
    position = [0]

    def seen(model: int, now: float) -> None:
        nearest[model] = following[position[0]]
        position[0] += 1

    def score(model: int, now: float) -> float:
        each = trace.models[model]
        return each.load_s / each.bytes / (nearest[model] - now + 1e-9)

    return Scored(name="belady", score=score, learn=seen, exact=True)


BASELINES: dict[str, Callable[[Trace], Scored]] = {
    "lru": lru,
    "ttl": ttl,
    "lfu": lfu,
    "ollama": ollama,
    "llama-swap": llama_swap,
    "gdsf": gdsf,
    "belady": belady,
}
"""Name → policy over a trace."""
