"""A circuit breaker for an endpoint that keeps failing (no I/O here)."""

from __future__ import annotations

from collections.abc import Callable

FAILURES = 3
"""Failures in a row that open the circuit: one may be a hiccup, three are an outage."""

PAUSE_S = 60.0
LONGEST_PAUSE_S = 900.0
"""The pause doubles with each failed trial, up to this: a recovered endpoint is used within it."""


class CircuitBreaker:
    """Opens after failures in a row; after a pause it lets one trial call through."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        """``monotonic``: seconds that never go back."""
        self._monotonic = monotonic
        self._failures = 0
        self._pause_s = PAUSE_S
        self._open_until: float | None = None

    def seconds_until_allowed(self) -> float:
        """Return the seconds until the next call is allowed; 0: the caller may call now.

        When it returns 0 after a pause, further calls wait for the outcome of this trial.
        """
        if self._open_until is None:
            return 0.0
        left = self._open_until - self._monotonic()
        if left > 0:
            return left
        self._open_until = self._monotonic() + self._pause_s
        return 0.0

    def on_success(self) -> None:
        """Close the circuit: the endpoint answered."""
        self._failures = 0
        self._pause_s = PAUSE_S
        self._open_until = None

    def on_failure(self) -> None:
        """Count a call that got no answer or an error."""
        self._failures += 1
        if self._open_until is not None:
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        if self._failures >= FAILURES:
            self._open_until = self._monotonic() + self._pause_s
