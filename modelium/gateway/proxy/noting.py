"""What is kept of an answered request: its tokens and, at the gateway of its client, a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from modelium.gateway.proxy.request import Request
from modelium.gateway.proxy.usage import Usage, estimated_tokens
from modelium.ports import Clock
from modelium.traffic.request_log import LoggedRequest

OnAnswered = Callable[[LoggedRequest], None]
"""Called for each answered request; must return at once."""


class AnswerCounts(Protocol):
    """Counts what answers tell; see `TrafficBook`."""

    def on_answered(
        self, model: str, *, prompt_tokens: int | None, generated_tokens: int | None
    ) -> None:
        """An answer reports these tokens."""

    def on_sized(self, model: str, tokens: int) -> None:
        """A request had about so many tokens."""

    def on_too_long(self, model: str, context: int) -> None:
        """The engine refused a request as too long for its context."""


class Noting:
    """Counts each request once over all nodes."""

    def __init__(
        self,
        *,
        traffic: AnswerCounts,
        clock: Clock,
        on_answered: OnAnswered | None,
        on_forwarded: OnAnswered | None,
    ) -> None:
        """As the arguments of `DataPlane` of the same names."""
        self._traffic = traffic
        self._clock = clock
        self._on_answered = on_answered
        self._on_forwarded = on_forwarded

    def usage(self) -> Usage | None:
        """Return what counts the tokens of a request that has arrived; ``None``: nobody asks."""
        wanted = self._on_answered is not None or self._on_forwarded is not None
        return Usage(at=self._clock.time()) if wanted else None

    def answered(
        self, request: Request, usage: Usage | None, body: bytes, *, status: int, began: float
    ) -> None:
        """Note what the answer of an engine tells: tokens, or that the request had too many."""
        model = request.named.model
        if self._on_answered is None or usage is None or not body:
            return
        if status < 400:
            seconds = self._clock.monotonic() - began
            answered = usage.log_entry(model, latency_s=seconds)
            if request.sender is None:
                self._on_answered(answered)
            else:  # it is logged where its client is
                self._traffic.on_answered(
                    model,
                    prompt_tokens=answered.prompt_tokens,
                    generated_tokens=answered.generated_tokens,
                )
            if (tokens := estimated_tokens(answered, body)) is not None:
                self._traffic.on_sized(model, tokens)
        elif status == 400 and (context := usage.refused_context) is not None:
            self._traffic.on_too_long(model, context)

    def passed_on(
        self, request: Request, usage: Usage | None, body: bytes, *, status: int, began: float
    ) -> None:
        """Note the answer of another node, which counts the tokens."""
        if self._on_forwarded is None or usage is None or not body:
            return
        if status < 400 and request.sender is None:
            seconds = self._clock.monotonic() - began
            self._on_forwarded(usage.log_entry(request.named.model, latency_s=seconds))
