"""What the suite needs for one runtime: how to create drivers, models and requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals

from modelium.errors import FailureKind
from modelium.ports import Loaded, LoadRequest, Running, Runtime


@dataclass(kw_only=True)
class Bench:
    """One runtime under test. To add a driver, add a factory to `benches.FACTORIES`."""

    name: str
    driver: Callable[[], Runtime]
    """A driver over the same state, as after a restart of Modelium."""
    request: Callable[[str], LoadRequest]
    """A load of a valid model of that name; creates its files."""
    broken: Callable[[], LoadRequest]
    broken_kinds: frozenset[FailureKind]
    ask: Callable[[Loaded], Awaitable[None]]
    """One real inference; raises if the answer is wrong."""
    send: Callable[[Running, Signals], None]
    """Send a signal to the processes that serve that model."""
    state: Path
    counts_requests: bool = True
    """False: it counts tokens only."""
    live: dict[str, Loaded] = field(default_factory=dict)
