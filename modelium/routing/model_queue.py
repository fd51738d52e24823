"""One model's entry in the routing table: its upstream and its queue (no decisions here)."""

from __future__ import annotations

import asyncio

from modelium.errors import ModeliumError, Unavailable
from modelium.models import Upstream

RETRY_AFTER_S = 30.0
"""Retry-After where the duration of the load is unknown: about half of a cold start."""

Gate = asyncio.Future[ModeliumError | None]


class ModelQueue:
    """The requests that wait for a model or are in flight, and the upstream that serves them."""

    __slots__ = (
        "_drained",
        "_gate",
        "answered",
        "demand_timer",
        "errors",
        "failing",
        "in_flight",
        "model",
        "reason",
        "registered",
        "retry_after_s",
        "upstream",
        "version",
        "waiting",
    )

    def __init__(self, model: str) -> None:
        self.model = model
        self.upstream: Upstream | None = None
        """``None`` while the model is closed."""
        self.version: int | None = None
        """The version at ``upstream``; ``None``: unknown."""
        self.registered: int | None = None
        """The version that a load would bring; ``None``: unknown."""
        self.count_anew()
        self.in_flight = 0
        self.waiting = 0
        self.retry_after_s = RETRY_AFTER_S
        self.reason = ""
        """Why the load takes as long as it does."""
        self.demand_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._gate: Gate | None = None

    def count_anew(self) -> None:
        """Count the answers from zero: another upstream gives them."""
        self.answered = 0
        """Answers of `upstream` since it was opened, and those of them that failed."""
        self.errors = 0
        self.failing = 0
        """Failed answers since the last good one."""

    def gate(self) -> Gate:
        """Return the future that releases all requests that wait now."""
        if self._gate is None:
            self._gate = asyncio.get_running_loop().create_future()
        return self._gate

    def release(self, refusal: ModeliumError | None) -> None:
        """Release the requests that wait now: to the upstream or, given one, with ``refusal``."""
        if self._gate is not None:
            self._gate.set_result(refusal)
            self._gate = None

    def drained(self) -> asyncio.Future[None]:
        """Return the future that is done once no request is in flight."""
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        return self._drained

    def on_finished(self) -> None:
        """Count the end of a request that was in flight."""
        self.in_flight -= 1
        if self._drained is not None and not self.in_flight:
            self._drained.set_result(None)
            self._drained = None

    def unavailable(self, message: str) -> Unavailable:
        """Return the error for a request that stops waiting; it adds the reason, if known."""
        if self.reason:
            message = f"{message} ({self.reason})"
        return Unavailable(message, retry_after_s=self.retry_after_s)
