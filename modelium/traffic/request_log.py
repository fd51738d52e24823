"""Answered requests that wait to be written to the store, one short entry each (no I/O here)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_HELD = 100_000
"""Limit for the entries that wait to be written. More mean that the store is unavailable, and
are dropped."""


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
    """Holds entries between two ticks of the control loop. Belongs to the event loop."""

    def __init__(self) -> None:
        """Start empty."""
        self._entries: list[LoggedRequest] = []
        self.dropped = 0
        """Entries that were lost because too many waited."""

    def add(self, entry: LoggedRequest) -> None:
        """Add an entry; drops it if `MOST_HELD` wait."""
        if len(self._entries) < MOST_HELD:
            self._entries.append(entry)
        else:
            self.dropped += 1

    def take(self) -> Sequence[LoggedRequest]:
        """Return all entries and forget them."""
        entries, self._entries = self._entries, []
        return entries
