"""What was asked, one short line a request, until it is written to the store (no I/O here)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_HELD = 100_000
"""Lines that wait to be written; more mean that the store is away, and are dropped."""


class Asked(NamedTuple):
    """One answered request. No content, and nothing of who asked."""

    at: float
    """When it came in (epoch), before any wait for a load."""
    model: str
    prompt_tokens: int | None
    """``None`` where the engine did not say."""
    generated_tokens: int | None
    latency_s: float
    """At the engine."""


class RequestLog:
    """Holds lines between two ticks of the loop. Belongs to the event loop; `add` is quick."""

    def __init__(self) -> None:
        """Start empty."""
        self._lines: list[Asked] = []
        self.dropped = 0
        """Lines that were lost because nobody took them."""

    def add(self, line: Asked) -> None:
        """Hold ``line``."""
        if len(self._lines) < MOST_HELD:
            self._lines.append(line)
        else:
            self.dropped += 1

    def take(self) -> Sequence[Asked]:
        """Hand all lines over."""
        lines, self._lines = self._lines, []
        return lines
