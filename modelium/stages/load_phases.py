"""How long each phase of a load takes, by the progress that the runtime reports."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from modelium.ports import Clock

FIRST = "asked"
"""The phase before the runtime reports one: it has the request."""


class PhaseEnd(Protocol):
    """Called when a phase has ended."""

    def __call__(self, phase: str, /, *, seconds: float) -> None:
        """``phase`` took ``seconds``."""


class Phases:
    """The phases of one load, one after another. A context manager: leaving it ends the last."""

    def __init__(self, *, clock: Clock, on_end: PhaseEnd) -> None:
        """Enter it when the load is requested."""
        self._clock = clock
        self._on_end = on_end
        self._phase = FIRST
        self._began = clock.monotonic()

    def __enter__(self) -> Phases:
        self._began = self._clock.monotonic()
        return self

    def begin(self, phase: str) -> None:
        """End the current phase, unless it is ``phase``."""
        if phase != self._phase:
            self._end()
            self._phase, self._began = phase, self._clock.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._on_end(self._phase, seconds=self._clock.monotonic() - self._began)
