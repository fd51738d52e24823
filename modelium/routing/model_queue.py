"""One model's place in the switchboard (no decisions here)."""

from __future__ import annotations

import asyncio

from modelium.errors import ModeliumError, Unavailable
from modelium.models import Upstream

RETRY_AFTER_S = 30.0
"""Retry-After where nothing is known of how long the load takes: about half of a cold start."""

Gate = asyncio.Future[ModeliumError | None]


class Desk:
    """Who is at a model, and where it answers."""

    __slots__ = (
        "_gate",
        "asking",
        "empty",
        "expectation",
        "in_flight",
        "retry_after_s",
        "upstream",
        "version",
        "waiting",
    )

    def __init__(self) -> None:
        self.upstream: Upstream | None = None
        self.version: int | None = None
        self.in_flight = 0
        self.waiting = 0
        self.retry_after_s = RETRY_AFTER_S
        self.expectation = ""
        self.asking: asyncio.TimerHandle | None = None
        self.empty: asyncio.Future[None] | None = None
        self._gate: Gate | None = None

    @property
    def idle(self) -> bool:
        """Nobody is at it."""
        return not self.in_flight and not self.waiting

    def gate(self) -> Gate:
        """Return what the present waiters wait for."""
        if self._gate is None:
            self._gate = asyncio.get_running_loop().create_future()
        return self._gate

    def wake(self, refusal: ModeliumError | None) -> None:
        """Let the present waiters go on; with a ``refusal``, away."""
        if self._gate is not None:
            self._gate.set_result(refusal)
            self._gate = None

    def report_empty(self) -> None:
        """Tell whoever drains it that nothing is in flight any more."""
        if self.empty is not None and not self.in_flight:
            self.empty.set_result(None)
            self.empty = None

    def unavailable(self, message: str) -> Unavailable:
        """Make the error for a waiter that is sent away."""
        if self.expectation:
            message = f"{message} ({self.expectation})"
        return Unavailable(message, retry_after_s=self.retry_after_s)
