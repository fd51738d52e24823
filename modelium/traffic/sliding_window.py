"""A count of recent events (no I/O here)."""

from __future__ import annotations


class SlidingWindow:
    """Counts the events of the last ``slots`` × ``width_s`` seconds; O(1) per event."""

    __slots__ = ("_counts", "_head", "_total", "_width_s")

    def __init__(self, now: float, *, slots: int, width_s: float) -> None:
        """Start empty at ``now`` (monotonic)."""
        self._counts = [0.0] * slots
        self._width_s = width_s
        self._head = int(now // width_s)
        self._total = 0.0

    def add(self, now: float, events: float = 1) -> None:
        """Count ``events`` at ``now``."""
        self._advance(now)
        self._counts[self._head % len(self._counts)] += events
        self._total += events

    def spread(self, now: float, events: float) -> None:
        """Count ``events``, distributed evenly over the whole window."""
        self._advance(now)
        self._counts = [count + events / len(self._counts) for count in self._counts]
        self._total += events

    def rate(self, now: float) -> float:
        """Return events per second, over the whole window."""
        self._advance(now)
        return max(0.0, self._total) / (len(self._counts) * self._width_s)

    def _advance(self, now: float) -> None:
        head = int(now // self._width_s)
        slots = len(self._counts)
        if head - self._head >= slots:
            self._counts = [0.0] * slots
            self._total = 0.0
        else:
            for passed in range(self._head + 1, head + 1):
                self._total -= self._counts[passed % slots]
                self._counts[passed % slots] = 0.0
        self._head = max(self._head, head)
