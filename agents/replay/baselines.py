"""Eviction policies of other systems and of the literature, as baselines of a replay (pure).

Each orders the evictable models by a score; the lowest is evicted first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from agents.replay.policy import Assignment, DevicePool, split_degree
from agents.replay.traces import Trace

TTL_S = 300.0
"""Ollama's default keep-alive, and a common idle timeout."""


Score = Callable[[int, float], float]
"""(model, now) → value of keeping the model; the lowest is evicted first."""


OnArrival = Callable[[int, float], None]
"""(model, now); called for each request."""


def _ignore(_a: object, _b: object = None) -> None:
    """Do nothing."""


class ScoredPolicy:
    """Evicts by a score, on the devices where the highest score among the victims is lowest.

    Free memory is used first, on the fullest device that has room.
    """

    def __init__(
        self,
        *,
        name: str,
        score: Score,
        on_arrival: OnArrival = _ignore,
        on_eviction: Callable[[float], None] = _ignore,
        ttl_s: float = math.inf,
        alone: bool = False,
        exact: bool = False,
    ) -> None:
        """Build the policy.

        Args:
            name: shown in tables.
            score: called when memory is needed.
            on_arrival: called for each request.
            on_eviction: called with the score of each victim.
            ttl_s: idle seconds after which a model is unloaded.
            alone: keep one model at a time.
            exact: spare victims that turn out not to be needed, highest score first.
        """
        self.name = name
        self.ttl_s = ttl_s
        self.sweep_s = math.inf
        self._on_arrival = on_arrival
        self._score = score
        self._on_eviction = on_eviction
        self._alone = alone
        self._exact = exact

    def on_arrival(self, model: int, now: float) -> None:
        """Take note of a request."""
        self._on_arrival(model, now)

    def expired(self, model: int, idle_s: float, now: float, pool: DevicePool) -> bool:
        """Whether ``model`` has been idle for longer than the time to live."""
        return idle_s > self.ttl_s

    def rank(self, waiting: Sequence[int], now: float, pool: DevicePool) -> Sequence[int]:
        """Return ``waiting`` as it is: first come, first served."""
        return waiting

    def prewarm(self, now: float, pool: DevicePool) -> Sequence[tuple[int, Assignment]]:
        """Return nothing."""
        return ()

    def choose(self, model: int, now: float, pool: DevicePool) -> Assignment | None:
        """Return devices for ``model``; ``None`` where idle models hold too little."""
        capacities = pool.capacities()
        degree = split_degree(pool.models[model].bytes, capacities)
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
            self._on_eviction(self._score(victim, now))
        return Assignment(tuple(d for _, _, d, _ in chosen), tuple(leaving))

    def _victims(
        self, device: int, need: int, now: float, pool: DevicePool
    ) -> tuple[int, ...] | None:
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


def _share(model: int, pool: DevicePool) -> int:
    return -(-pool.models[model].bytes // len(pool.devices_of(model)))


def _recency(
    trace: Trace, name: str, *, ttl_s: float = math.inf, alone: bool = False
) -> ScoredPolicy:
    last = [-math.inf] * len(trace.models)

    return ScoredPolicy(
        name=name,
        score=lambda model, now: last[model],
        on_arrival=last.__setitem__,
        ttl_s=ttl_s,
        alone=alone,
    )


def lru(trace: Trace) -> ScoredPolicy:
    """Least recently used."""
    return _recency(trace, "lru")


def ttl(trace: Trace) -> ScoredPolicy:
    """Unload after five idle minutes; least recently used where memory is needed earlier."""
    return _recency(trace, "ttl", ttl_s=TTL_S)


def llama_swap(trace: Trace) -> ScoredPolicy:
    """llama-swap with one group: one model at a time."""
    return _recency(trace, "llama-swap", alone=True)


def ollama(trace: Trace) -> ScoredPolicy:
    """Ollama: shortest keep-alive first, then by name; all models have five minutes."""
    place = {
        i: float(n)
        for n, i in enumerate(sorted(range(len(trace.models)), key=lambda i: trace.models[i].name))
    }
    return ScoredPolicy(name="ollama", score=lambda model, now: place[model], ttl_s=TTL_S)


def lfu(trace: Trace) -> ScoredPolicy:
    """Least frequently used since the beginning."""
    count = [0.0] * len(trace.models)

    def seen(model: int, now: float) -> None:
        count[model] += 1

    return ScoredPolicy(name="lfu", score=lambda model, now: count[model], on_arrival=seen)


def gdsf(trace: Trace) -> ScoredPolicy:
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

    return ScoredPolicy(
        name="gdsf", score=lambda model, now: priority[model], on_arrival=seen, on_eviction=evicted
    )


def belady(trace: Trace) -> ScoredPolicy:
    """Offline bound: load seconds per byte and second until the model's next request."""
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

    return ScoredPolicy(name="belady", score=score, on_arrival=seen, exact=True)


BASELINES: dict[str, Callable[[Trace], ScoredPolicy]] = {
    "lru": lru,
    "ttl": ttl,
    "lfu": lfu,
    "ollama": ollama,
    "llama-swap": llama_swap,
    "gdsf": gdsf,
    "belady": belady,
}
"""Name → policy for a trace."""
