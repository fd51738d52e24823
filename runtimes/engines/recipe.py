"""What `EngineHost` has to know of one kind of engine: how to start it and read its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from modelium.errors import FailureKind
from modelium.models import RuntimeName
from modelium.ports import EngineStats, LoadRequest
from runtimes.process.supervisor import Command


class EngineRecipe(Protocol):
    """One kind of engine: an HTTP server with /health, /v1/models and /metrics. No I/O."""

    name: RuntimeName

    @property
    def spans_nodes(self) -> bool:
        """Whether the installed engine loads one model over several nodes."""

    def complete(self, request: LoadRequest) -> LoadRequest:
        """Fill unset settings from the configured defaults."""

    def command(self, request: LoadRequest, *, host: str, port: int, key: str) -> Command:
        """Return the command that starts the engine.

        ``key`` goes into the environment, never into the arguments, which every user can read.

        Raises:
            LoadFailed: of kind ``bad-settings``.
        """

    def phase(self, line: str) -> tuple[str, float | None] | None:
        """Return the phase of the start, and the share done, that a log line reports, if any."""

    def probe(self, request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
        """Return path and JSON body of the smallest real request; None if the task has none."""

    def failure(self, lines: Sequence[str], code: int | None) -> FailureKind:
        """Classify a failed start by the last log lines and the exit status."""

    def smaller(self, request: LoadRequest, lines: Sequence[str]) -> LoadRequest | None:
        """Return ``request`` with less memory, for one retry; None if nothing can be reduced.

        ``lines``: the last ones of the failed start's log.
        """

    def stats(self, metrics: str) -> EngineStats:
        """Parse the text of /metrics."""
