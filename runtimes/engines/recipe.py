"""What `EngineHost` asks of one kind of engine: how it is started, read and understood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from modelium.errors import FailureKind
from modelium.models import Api, RuntimeName
from modelium.ports import EngineStats, LoadRequest
from runtimes.process.supervisor import Command


class Recipe(Protocol):
    """One kind of engine: an HTTP server with /health, /v1/models and /metrics. Pure."""

    name: RuntimeName
    apis: frozenset[Api]

    def complete(self, request: LoadRequest) -> LoadRequest:
        """Apply the configured defaults."""

    def command(self, request: LoadRequest, *, host: str, port: int, key: str) -> Command:
        """How the engine is started; ``key`` must not stand in its arguments, which all can read.

        Raises:
            LoadFailed: of kind ``bad-settings``.
        """

    def phase(self, line: str) -> tuple[str, float | None] | None:
        """What a line of its log says about the start, if anything."""

    def probe(self, request: LoadRequest) -> tuple[str, dict[str, Any]] | None:
        """Path and JSON body of the smallest real request, where the model's task is known."""

    def failure(self, lines: Sequence[str], code: int | None) -> FailureKind:
        """Why it died while starting, from its last lines and its exit status."""

    def smaller(self, request: LoadRequest) -> LoadRequest | None:
        """The same with less memory for one retry; None where nothing can be given up."""

    def stats(self, metrics: str) -> EngineStats:
        """Counters from the text of /metrics."""
