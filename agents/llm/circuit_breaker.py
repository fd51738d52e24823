"""Whether an endpoint that failed is worth asking again (no I/O here)."""

from __future__ import annotations

from collections.abc import Callable

FAILURES = 3
"""In a row, before nobody asks any more: one may be a hiccup, three are an outage."""

PAUSE_S = 60.0
LONGEST_PAUSE_S = 900.0
"""The pause doubles with each trial that fails: an endpoint that is back is used within 15 min."""


class CircuitBreaker:
    """Opens after failures in a row; lets one trial through when its pause is over."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        """``monotonic``: seconds that never go back."""
        self._monotonic = monotonic
        self._failures = 0
        self._pause_s = PAUSE_S
        self._open_until: float | None = None

    def seconds_until_allowed(self) -> float:
        """Seconds until a question is let through; 0: now.

        When it answers 0 after a pause, the next one waits for the outcome of this trial.
        """
        if self._open_until is None:
            return 0.0
        left = self._open_until - self._monotonic()
        if left > 0:
            return left
        self._open_until = self._monotonic() + self._pause_s
        return 0.0

    def on_success(self) -> None:
        """The endpoint answered."""
        self._failures = 0
        self._pause_s = PAUSE_S
        self._open_until = None

    def on_failure(self) -> None:
        """The endpoint did not answer, or with an error."""
        self._failures += 1
        if self._open_until is not None:
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        if self._failures >= FAILURES:
            self._open_until = self._monotonic() + self._pause_s
