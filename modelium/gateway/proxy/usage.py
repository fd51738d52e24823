"""How many tokens an answer took, read off its bytes as they pass (nothing is kept of them)."""

from __future__ import annotations

import re

from modelium.traffic.request_log import Asked

TAIL_BYTES = 2048
"""Engines write the usage behind the choices; what follows it fits in here."""

PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
GENERATED = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
"""Quotes inside of generated text are escaped, so that no text can pass for a usage."""


class Usage:
    """Counts while an answer passes. A few hundred nanoseconds a chunk."""

    __slots__ = ("_at", "_events", "_tail")

    def __init__(self, *, at: float) -> None:
        """``at``: when the request came in (epoch)."""
        self._at = at
        self._events = 0
        self._tail = b""

    def see(self, chunk: bytes, *, events: bool = False) -> None:
        """Look at the next bytes; ``events``: of a stream of events, about one a token."""
        if events:
            self._events += chunk.count(b"data: {")
        size = len(chunk)
        self._tail = (
            chunk[-TAIL_BYTES:] if size >= TAIL_BYTES else (self._tail + chunk)[-TAIL_BYTES:]
        )

    @property
    def prompt_tokens(self) -> int | None:
        """What the engine said, or ``None``."""
        return _last(PROMPT, self._tail)

    @property
    def generated_tokens(self) -> int | None:
        """What the engine said; of a stream that does not say, its events."""
        said = _last(GENERATED, self._tail)
        return said if said is not None else self._events or None

    def line(self, model: str, *, latency_s: float) -> Asked:
        """Return the request log's line of this answer."""
        return Asked(
            at=self._at,
            model=model,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            latency_s=latency_s,
        )


def _last(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    return int(found[-1]) if found else None
