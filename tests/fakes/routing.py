"""A listener and metrics for a switchboard under test, which record their calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Listener:
    """A `RoutingListener` that records its calls and forwards them."""

    demand: Callable[[str], object] = lambda model: None
    unreachable: Callable[[str], object] = lambda model: None
    demanded: list[str] = field(default_factory=list)
    """Models of all `on_demand` calls, oldest first."""
    unreached: list[str] = field(default_factory=list)
    """Models of all `on_unreachable` calls, oldest first."""

    failed: list[str] = field(default_factory=list)
    """Models of all `on_failed_answer` calls."""

    def on_demand(self, model: str) -> None:
        self.demanded.append(model)
        self.demand(model)

    def on_unreachable(self, model: str) -> None:
        self.unreached.append(model)
        self.unreachable(model)

    def on_failed_answer(self, model: str) -> None:
        self.failed.append(model)


@dataclass
class Waits:
    """`RoutingMetrics` that a test can read."""

    held: list[tuple[str, float]] = field(default_factory=list)
    """Model and seconds of each finished wait."""
    cold_starts: list[str] = field(default_factory=list)

    def on_request_held(self, model: str, waited_s: float) -> None:
        self.held.append((model, waited_s))

    def on_cold_start(self, model: str) -> None:
        self.cold_starts.append(model)
