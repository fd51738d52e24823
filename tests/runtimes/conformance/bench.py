"""What the suite has to know of one runtime: how to make drivers, models and requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from modelium.errors import FailureKind
from modelium.ports import Loaded, LoadRequest, Running, Runtime


@dataclass(kw_only=True)
class Bench:
    """One runtime on the bench. Add a factory to `benches.FACTORIES` to add a driver."""

    name: str
    driver: Callable[[], Runtime]
    """A driver over the same state, as after a restart of Modelium."""
    request: Callable[[str], LoadRequest]
    """A load of a good model of that name; its files are made as needed."""
    broken: Callable[[], LoadRequest]
    broken_kinds: frozenset[FailureKind]
    ask: Callable[[Loaded], Awaitable[None]]
    """One real inference; raises where the answer is wrong."""
    kill: Callable[[Running], None]
    """SIGKILL what serves that model."""
    state: Path
    counts_requests: bool = True
    """False: its counters tell tokens only."""
    live: dict[str, Loaded] = field(default_factory=dict)
