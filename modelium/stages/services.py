"""The ports and the store in one object, and how a flow finds it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from modelium.config import Config
from modelium.intake.pending import PendingDrops
from modelium.intake.repository import ModelRepository
from modelium.intake.seals import Seals
from modelium.models import RuntimeName
from modelium.policy import Policy
from modelium.ports import (
    Brain,
    Clock,
    DeviceInventory,
    FileSources,
    Launcher,
    Peers,
    Runtime,
    Telemetry,
)
from modelium.routing.switchboard import Switchboard
from modelium.stages.bandwidth import Bandwidth, FetchRate
from modelium.stages.heartbeat import Heartbeat
from modelium.stages.loads import Loads
from modelium.stages.memory_deltas import DeviceActivity
from modelium.stages.ongoing import Ongoing
from modelium.stages.owners import NEW, Orphans, Owners
from modelium.stages.pulse import Pulse
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.sweeps import Sweeps
from modelium.stages.turns import Turns
from modelium.store import AsyncStore
from modelium.traffic import RequestLog


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """A failure of a background task or a device."""

    at: float
    """In seconds of the monotonic clock."""
    sentence: str


@dataclass(kw_only=True, slots=True, eq=False)
class Services:
    """What stages are given. Built once, in `modelium.app`; only `configure` changes it."""

    config: Config
    policy: Policy
    store: AsyncStore
    repository: ModelRepository
    switchboard: Switchboard
    devices: DeviceInventory
    runtimes: Mapping[RuntimeName, Runtime]
    runtime_monitor: RuntimeMonitor
    brain: Brain
    launcher: Launcher
    telemetry: Telemetry
    clock: Clock
    node: str = ""
    """This node's name where several may share the store; empty: everything is here."""
    files: FileSources | None = None
    """How files are fetched from other nodes; ``None``: they are not."""
    peers: Peers | None = None
    """How requests reach other nodes; ``None``: they do not."""
    planning: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from a snapshot to the acceptance of the plan that is made on it."""
    pulse: Pulse = field(default_factory=Pulse)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    requests: RequestLog = field(default_factory=RequestLog)
    sweeps: Sweeps = field(default_factory=Sweeps)

    activity: DeviceActivity = field(default_factory=DeviceActivity)
    pending: PendingDrops = field(default_factory=PendingDrops)
    attended: set[str] = field(default_factory=set)
    """Ids of the intents that a task of this process is at."""
    removing: Ongoing = field(default_factory=Ongoing)
    loads: Loads = field(default_factory=Loads)
    switching: Ongoing = field(default_factory=Ongoing)
    awaiting: set[str] = field(default_factory=set)
    """Models whose current version waits while an older one serves; a restart finds them anew."""
    owners: Owners = field(default_factory=Owners)
    orphans: Orphans = field(default_factory=Orphans)
    examiners: Owners = field(default_factory=Owners)
    """Which tasks analyze models, or decide on new ones."""
    newcomers: Orphans = field(default_factory=lambda: Orphans(NEW))
    turns: Turns = field(default_factory=Turns)
    """Of ingests, by model."""
    fetching: Turns = field(default_factory=Turns)
    """Of fetches, by folder."""
    fetched: FetchRate = field(default_factory=FetchRate)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """The last failure of each background task, and of each unhealthy device, by its name."""
    began: float = 0.0
    """When this life of the service began, in seconds since the epoch."""
    bandwidth: Bandwidth = field(init=False)
    """Of all fetches together."""
    seals: Seals = field(init=False)
    """Of the files on this node."""

    def __post_init__(self) -> None:
        """Make what depends on the clock and on the configuration's folders."""
        self.bandwidth = Bandwidth(clock=self.clock)
        self.seals = Seals(file=self.config.orchestration.state / "seals.json")

    def configure(self, config: Config) -> None:
        """Put ``config`` in force. Whoever keeps no copy of its own acts on it at once."""
        self.config, self.policy = config, config.policy()
        self.repository.zone.declare(config.teams)


_current: ContextVar[Services] = ContextVar("modelium_services")


def provide(services: Services) -> None:
    """Make ``services`` available in this context and in all tasks started from it."""
    _current.set(services)


def current() -> Services:
    """Return the services of this context.

    Raises:
        RuntimeError: outside a running Modelium.
    """
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError(
            "this flow runs inside the Modelium service: start it with `modelium up`, "
            "then `prefect deployment run`"
        ) from None
