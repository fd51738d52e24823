"""How hard one model works: tokens, queue, concurrency, GPU utilization (no I/O here)."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from modelium.models import Traffic
from modelium.ports import EngineStats
from modelium.traffic.sliding_window import SlidingWindow

QUEUE_REQUESTS = 256
"""Requests whose queue time counts, as many as latencies are kept of."""

HALVES_S = 86_400.0
"""A peak and a queue count half a day later: what was needed yesterday at noon may be needed
today."""

REFUSALS_LEAST, REFUSALS_EVERY_S = 3, 600.0
"""A context is too short once it has refused so many requests, each so long after the one before:
a client that sends the same request again and again counts once."""


class EngineLoad:
    """The signals of one model beside its requests' counts.

    Tokens are counted by the engine where it does; else by the gateway, from the answers.
    """

    __slots__ = (
        "_concurrency",
        "_concurrency_at",
        "_ended",
        "_engine_counts",
        "_generated",
        "_last",
        "_loaded_at",
        "_prompt",
        "_queue",
        "_queue_restored",
        "_queue_restored_at",
        "_refusals",
        "_refused_at",
        "_refusing",
        "generated_tokens",
        "gpu_utilization",
        "longest_tokens",
        "prompt_tokens",
        "queued",
        "short_context",
        "sized",
    )

    def __init__(self, now: float) -> None:
        """Start empty at ``now`` (monotonic)."""
        self.prompt_tokens = self.generated_tokens = 0
        self.longest_tokens = self.sized = self.queued = self.short_context = 0
        self.gpu_utilization: float | None = None
        self._prompt = SlidingWindow(now, slots=60, width_s=1.0)
        self._generated = SlidingWindow(now, slots=60, width_s=1.0)
        self._ended = SlidingWindow(now, slots=60, width_s=1.0)
        self._queue: deque[tuple[int, float, float]] = deque()
        self._queue_restored: float | None = None
        self._queue_restored_at = now
        self._refusing = self._refusals = 0
        self._refused_at = 0.0
        self._concurrency = 0.0
        self._concurrency_at = now
        self._loaded_at: float | None = None
        self._last = EngineStats()
        self._engine_counts = False

    def on_concurrent(self, requests: int, now: float) -> None:
        """Note that ``requests`` are in flight or waiting at once."""
        self._concurrency = max(self._concurrent(now), float(requests))
        self._concurrency_at = now

    def on_ended(self, requests: int, now: float) -> None:
        """Count ``requests`` that ended."""
        self._ended.add(now, requests)

    def on_answered(self, prompt: int | None, generated: int | None, now: float) -> None:
        """Take the tokens that one answer reports; ``None``: it reports none."""
        if prompt is not None:
            self.on_sized(prompt + (generated or 0))
        if not self._engine_counts:
            self._count(prompt or 0, generated or 0, now)

    def on_sized(self, tokens: int) -> None:
        """Note the length of one answered request: prompt and answer."""
        self.sized += 1
        self.longest_tokens = max(self.longest_tokens, tokens)

    def on_too_long(self, context: int, now: float) -> None:
        """Note that the engine refused a request as too long for ``context`` tokens."""
        if context != self._refusing:
            self._refusing, self._refusals = context, 0
        if self._refusals == 0 or now - self._refused_at >= REFUSALS_EVERY_S:
            self._refusals += 1
            self._refused_at = now
        if self._refusals >= REFUSALS_LEAST:
            self.short_context = max(self.short_context, context)

    def observe(self, stats: EngineStats, *, loaded_at: float, now: float) -> None:
        """Take the counters of an engine that was loaded at ``loaded_at``."""
        last = self._last if loaded_at == self._loaded_at else EngineStats()
        self._last, self.queued = stats, stats.waiting
        prompt = stats.prompt_tokens - last.prompt_tokens
        generated = stats.generated_tokens - last.generated_tokens
        if loaded_at != self._loaded_at or prompt < 0 or generated < 0:
            self._loaded_at, self._engine_counts = loaded_at, False
        elif self._engine_counts:
            self._count(prompt, generated, now)
        # The gateway has counted what an engine counts until it is first seen to count.
        self._engine_counts = self._engine_counts or _tokens(stats) > 0
        self._observe_queue(last, stats, now)

    def on_gone(self) -> None:
        """Note that no engine runs any more."""
        self.queued, self.gpu_utilization = 0, None

    def restore(self, past: Traffic, now: float) -> None:
        """Add what an earlier process has stored."""
        self.prompt_tokens += past.prompt_tokens
        self.generated_tokens += past.generated_tokens
        self.longest_tokens = max(self.longest_tokens, past.longest_tokens)
        self.sized += past.sized
        self.short_context = max(self.short_context, past.short_context)
        self._queue_restored, self._queue_restored_at = past.queue_s, now
        self._concurrency = max(self._concurrent(now), past.concurrency)
        self._concurrency_at = now

    def fields(self, now: float) -> dict[str, Any]:
        """Return these fields of `Traffic`, as of ``now`` (monotonic)."""
        return {
            "queued": self.queued,
            "queue_s": self._queue_s(now),
            "concurrency": self._concurrent(now),
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "prompt_tokens_per_s": self._prompt.rate(now),
            "generated_tokens_per_s": self._generated.rate(now),
            "ended_per_s": self._ended.rate(now),
            "longest_tokens": self.longest_tokens,
            "sized": self.sized,
            "short_context": self.short_context,
            "gpu_utilization": self.gpu_utilization,
        }

    def _count(self, prompt: int, generated: int, now: float) -> None:
        self.prompt_tokens += prompt
        self.generated_tokens += generated
        self._prompt.add(now, prompt)
        self._generated.add(now, generated)

    def _observe_queue(self, last: EngineStats, stats: EngineStats, now: float) -> None:
        ended = stats.completed + stats.failed - last.completed - last.failed
        waited = stats.queue_sum_s - last.queue_sum_s
        if stats.queue_sum_s <= 0 or ended <= 0 or waited < 0:
            return  # the engine measures none, none ended, or the counters began anew
        self._queue.append((ended, waited, now))
        while sum(n for n, _, _ in self._queue) - self._queue[0][0] >= QUEUE_REQUESTS:
            self._queue.popleft()

    def _queue_s(self, now: float) -> float | None:
        if requests := sum(n for n, _, _ in self._queue):
            return sum(_aged(waited, now - at) for _, waited, at in self._queue) / requests
        past = self._queue_restored
        return None if past is None else _aged(past, now - self._queue_restored_at)

    def _concurrent(self, now: float) -> float:
        return _aged(self._concurrency, now - self._concurrency_at)


def _aged(value: float, passed: float) -> float:
    return value * math.pow(0.5, max(0.0, passed) / HALVES_S)


def _tokens(stats: EngineStats) -> int:
    return stats.prompt_tokens + stats.generated_tokens
