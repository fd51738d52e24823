"""A buffer of answered requests that are not yet written to the store (no I/O here)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_HELD = 100_000
"""Limit for buffered entries. It is reached only if the store is unavailable; further entries are
dropped."""


class LoggedRequest(NamedTuple):
    """One answered request, without its content and its client."""

    at: float
    """When it arrived (epoch seconds), before any wait for a load."""
    model: str
    prompt_tokens: int | None
    """``None``: the engine reported none."""
    generated_tokens: int | None
    latency_s: float
    """Seconds at the engine."""


class RequestLog:
    """Buffers entries between two ticks of the control loop. Use it on the event loop only."""

    def __init__(self) -> None:
        """Start empty."""
        self._entries: list[LoggedRequest] = []
        self.dropped = 0
        """Number of entries that were dropped because the buffer was full."""

    def add(self, entry: LoggedRequest) -> None:
        """Add an entry; drops it if the buffer has `MOST_HELD` entries."""
        if len(self._entries) < MOST_HELD:
            self._entries.append(entry)
        else:
            self.dropped += 1

    def take(self) -> Sequence[LoggedRequest]:
        """Remove and return all entries."""
        entries, self._entries = self._entries, []
        return entries

    def restore(self, entries: Sequence[LoggedRequest]) -> None:
        """Put back what `take` returned and the store did not; the latest are dropped first."""
        entries = (*entries, *self._entries)
        self.dropped += max(0, len(entries) - MOST_HELD)
        self._entries = list(entries[:MOST_HELD])
