"""Reads the token counts of an answer from its bytes as they pass, without storing them."""

from __future__ import annotations

import re

from modelium.traffic.request_log import LoggedRequest

TAIL_BYTES = 2048
"""Engines write the usage after the choices; it and what follows fit in here."""

PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
GENERATED = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
"""Generated text cannot match: quotes in it are escaped."""

TOO_LONG = re.compile(rb"maximum (?:context|model) length (?:is|of) (\d{1,8})")
"""In the message of vLLM's 400 for a request that exceeds its context."""

BYTES_PER_TOKEN = 3
"""English text has four or more, code and CJK three: rather too many tokens than too few."""

MOST_TEXT = 4 * 1024 * 1024
"""A longer body would exceed any context, were it text."""

MEDIA = (b";base64,", b'"input_audio"')
"""What a JSON body with images or sound contains."""


class Usage:
    """Counts the tokens of one answer, at a few hundred nanoseconds a chunk."""

    __slots__ = ("_at", "_events", "_tail")

    def __init__(self, *, at: float) -> None:
        """``at``: when the request arrived (epoch seconds)."""
        self._at = at
        self._events = 0
        self._tail = b""

    def feed(self, chunk: bytes, *, events: bool = False) -> None:
        """Take the next bytes; ``events``: of an event stream, which has about one per token."""
        if events:
            self._events += chunk.count(b"data: {")
        size = len(chunk)
        self._tail = (
            chunk[-TAIL_BYTES:] if size >= TAIL_BYTES else (self._tail + chunk)[-TAIL_BYTES:]
        )

    @property
    def prompt_tokens(self) -> int | None:
        """As reported by the engine, or ``None``."""
        return _last(PROMPT, self._tail)

    @property
    def generated_tokens(self) -> int | None:
        """As reported by the engine; the number of events for a stream that reports none."""
        reported = _last(GENERATED, self._tail)
        return reported if reported is not None else self._events or None

    @property
    def refused_context(self) -> int | None:
        """The engine's context in tokens, where it refused the request as too long for that."""
        return _last(TOO_LONG, self._tail)

    def log_entry(self, model: str, *, latency_s: float) -> LoggedRequest:
        """Return the entry of this answer for the request log."""
        return LoggedRequest(
            at=self._at,
            model=model,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            latency_s=latency_s,
        )


def estimated_tokens(answered: LoggedRequest, body: bytes) -> int | None:
    """Return about how many tokens prompt and answer had, where the engine did not count them.

    ``body``: of the request. ``None``: the engine did, it generated none, or ``body`` is not text
    alone.
    """
    if answered.prompt_tokens is not None or answered.generated_tokens is None:
        return None
    if len(body) > MOST_TEXT or not body.startswith(b"{") or any(one in body for one in MEDIA):
        return None
    return len(body) // BYTES_PER_TOKEN + answered.generated_tokens


def _last(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    return int(found[-1]) if found else None
