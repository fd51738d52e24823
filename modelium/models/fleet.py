"""Models, deployments, traffic, and the snapshot of all of them (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field

from modelium.errors import FailureKind
from modelium.lifecycle import ModelState
from modelium.models.base import ROW_NAME, Api, Frozen, Priority, RuntimeName
from modelium.models.departures import Departure
from modelium.models.devices import Booking, Device, RuntimeStatus
from modelium.models.nodes import Node
from modelium.models.outcomes import ClassFailures, ModelClass
from modelium.models.profile import LoadSettings, MeasuredLoad, ModelProfile, Preference
from modelium.models.wishes import Wishes


class Upstream(Frozen):
    """Address of a loaded model. It may be on another machine."""

    host: str
    port: int
    socket: str = ""
    """Path of the Unix socket that it listens on instead; ``host`` and ``port`` name it only."""
    prefix: str = ""
    """Path prefix of all its APIs, e.g. ``/magika``."""
    served_name: str
    apis: frozenset[Api]
    paths: frozenset[str] | None = None
    """Of the ``openai`` API, those that the model serves; ``None``: not known, any may be."""
    api_key: str | None = Field(default=None, repr=False)
    user: int | None = None
    """Id of the user whose process has to listen there; ``None``: it is not known (a server of
    others), and the address is trusted."""
    tls: bool = False
    """Whether it speaks HTTPS."""
    peer: str = ""
    """The node whose gateway it is, which forwards to the engine; empty: the engine itself."""

    @property
    def base_url(self) -> str:
        """``http://host:port/prefix`` without a trailing slash."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.prefix}"


class Deployment(Frozen):
    """One model in one runtime, as the store records it."""

    model: str
    version: int
    instance: str = ""
    """What the runtime calls it; empty: as the model (stored before versions had own names)."""
    runtime: RuntimeName
    devices: tuple[str, ...]
    settings: LoadSettings
    upstream: Upstream | None = None
    handle: dict[str, Any] = Field(default_factory=dict)
    """Driver-specific data to find it again after a restart (pid, start time, application …)."""
    started_at: float
    begun: bool = True
    """Whether its node has begun to load it: until then nothing of it can be there."""
    ready_at: float | None = None
    load_s: float | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of its devices, each once; the first one starts it and answers for it."""
        return tuple(dict.fromkeys(device.partition("/")[0] for device in self.devices))

    @property
    def node(self) -> str:
        """The first of `nodes`."""
        return self.devices[0].partition("/")[0]

    @property
    def name(self) -> str:
        """Its name in the runtime."""
        return self.instance or self.model


class Habit(Frozen):
    """Times of day at which a model had requests; see `modelium.traffic.daily_pattern`."""

    day: int = 0
    """The day of bit 0, in days since the epoch (UTC)."""
    slots: tuple[int, ...] = ()
    """One bit set per quarter of an hour; bit k: requests arrived k days before ``day``."""


class Traffic(Frozen):
    """Statistics of the requests to one model up to the snapshot."""

    in_flight: int = 0
    pending: int = 0
    """Requests that wait for the model to be loaded (the seed's ``pending_requests``)."""
    pending_priority: Priority | None = None
    """The highest class among the pending requests; ``None``: none has a class (by API key)."""
    completed: int = 0
    failed: int = 0
    direct: int = 0
    """Completed and failed requests that bypassed the gateway."""
    qps: float = 0.0
    """Requests per second over the last minute."""
    qps_last_hour: float = 0.0
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    first_request_at: float | None = None
    last_request_at: float | None = None
    rates: tuple[float, ...] = ()
    """Decayed requests per second, one per horizon in `modelium.traffic.HORIZONS_S`."""
    hours: tuple[int, ...] = ()
    """Requests that ended in each of the last 24 hours, the current hour last; empty: not read."""
    intervals: tuple[int, ...] = ()
    """Histogram of inter-arrival times; the bounds are `modelium.traffic.INTERVAL_BOUNDS_S`."""
    habit: Habit = Habit()
    queued: int = 0
    """Requests in the engine's own queue at its last observation."""
    queue_s: float | None = None
    """Mean seconds in the engine's queue of the last 256 requests, each of which counts half a day
    later; ``None``: not measured."""
    concurrency: float = 0.0
    """The most requests at once, in flight or waiting; a peak counts half a day later."""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prompt_tokens_per_s: float = 0.0
    """Over the last minute, as the next two."""
    generated_tokens_per_s: float = 0.0
    ended_per_s: float = 0.0
    """Requests that ended."""
    longest_tokens: int = 0
    """Tokens of prompt and answer of the longest request that the gateway saw, estimated where a
    stream told none; 0: none known."""
    sized: int = 0
    """Requests whose tokens were told or estimated."""
    short_context: int = 0
    """The longest context that repeatedly refused requests as too long, in tokens; 0: none."""
    gpu_utilization: float | None = None
    """0…1: the share of time in which its processes used its GPUs, a mean over these; ``None``: on
    no GPU, or nobody can tell it from that of other models."""


class Removal(Frozen):
    """An operator's request to remove a model, not finished yet."""

    by: str
    at: float
    purge: bool = False
    """Delete the files at once instead of moving them to the trash."""


class Setbacks(Frozen):
    """What is known of the failed attempts that `Model.failures` counts."""

    kind: FailureKind | None = None
    """Of the last one; ``None``: a passing fault, or none."""
    runtimes: dict[RuntimeName, int] = Field(default_factory=dict)
    """How many were the fault of a runtime, by runtime."""
    configuration: str = ""
    """Digest of the configuration that the last one was made with."""


class Version(Frozen):
    """One version of a model: its files, and whether they were removed."""

    model: str
    version: int
    path: str
    digest: str
    registered_at: float
    removed_at: float | None = None
    removed_by: str | None = None
    purge: bool | None = None
    team: str | None = None
    """Of a removed version: whose it was."""
    proven_at: float | None = None
    """When it had answered its first requests."""


class Reservation(Frozen):
    """A version number that is promised to a drop, whose folder may have its name by now."""

    model: str
    version: int
    path: str
    """In the repository."""
    digest: str
    asked: Mapping[str, str | None] = Field(default_factory=dict)
    """The options that the drop came with."""


class Model(Frozen):
    """One registered model as a snapshot shows it."""

    name: Annotated[str, Field(pattern=ROW_NAME)]
    version: int = 1
    path: str
    digest: str = ""
    state: ModelState
    state_since: float
    registered_at: float
    team: str | None = None
    priority: Priority = Priority.LOW
    priority_ceiling: Priority = Priority.HIGH
    """The highest class that a plan may give it; only the operator sets it."""
    pinned: bool = False
    approvals: frozenset[str] = frozenset()
    """The risks that the operator approved: ``remote-code``, ``pickle``."""
    profile: ModelProfile | None = None
    deployment: Deployment | None = None
    traffic: Traffic = Traffic()
    measured: tuple[MeasuredLoad, ...] = ()
    preference: Preference | None = None
    """Valid until a load with it fails or a new version is registered."""
    wishes: Wishes | None = None
    """What whoever dropped this version asks for; ``None``: it came without a note."""
    failures: int = 0
    """Failed loads, and losses soon after one, since it last stayed healthy for a while."""
    retry_at: float | None = None
    """When a failed model may be tried again; until then, only an operator can load it.

    ``None`` in FAILED with ``failures``: it is not tried again by itself, see `quarantined`.
    """
    setbacks: Setbacks = Setbacks()
    evicted_at: float | None = None
    """When it was last evicted; reload_cooldown_seconds starts then."""
    queued_at: float | None = None
    reason: str = ""
    """Why it is in this state, in one line."""
    removal: Removal | None = None
    """Set while it is being removed: it is unloaded and never loaded again."""
    twin_of: str | None = None
    """The model that this is another version of, loaded beside it while they are switched."""
    proven: bool = False
    """Whether this version has answered its first requests; else an earlier one may return."""

    @property
    def outdated(self) -> bool:
        """Whether the deployed version is older than the registered one."""
        return self.deployment is not None and self.deployment.version != self.version

    @property
    def quarantined(self) -> bool:
        """Whether it failed so often that only an operator, or a change of it, loads it again."""
        return self.state is ModelState.FAILED and self.failures > 0 and self.retry_at is None

    def idle_s(self, now: float) -> float:
        """Seconds since the last request ended or, where there was none, since it was ready.

        0 while a request is in flight or waiting.
        """
        if self.traffic.in_flight or self.traffic.pending:
            return 0.0
        ready = self.deployment.ready_at if self.deployment else None
        last = max(self.traffic.last_request_at or 0.0, ready or self.state_since)
        return max(0.0, now - last)


class Fleet(Frozen):
    """An immutable snapshot of everything that a decision may depend on."""

    at: float
    revision: int
    """The store's revision; a plan is accepted only while the store is still at it."""
    devices: tuple[Device, ...] = ()
    models: tuple[Model, ...] = ()
    bookings: tuple[Booking, ...] = ()
    runtimes: tuple[RuntimeStatus, ...] = ()
    """Of all nodes that are not silent."""
    nodes: tuple[Node, ...] = ()
    """All nodes, this one included; empty: there is one, which is as placeable as its devices."""
    files: dict[str, frozenset[str]] = Field(default_factory=dict)
    """Model → nodes that have the files of its current version; one that is missing is on all."""
    used: dict[str, float] = Field(default_factory=dict)
    """Team → GPU-seconds that its models used in the last 24 hours; empty where no team is
    declared."""
    class_failures: tuple[ClassFailures, ...] = ()
    """Classes of models whose last loads in a runtime failed, the newest failure first."""
    departures: tuple[Departure, ...] = ()
    """Those of the last two days, the newest first."""

    def __copy__(self) -> Self:
        """Copy the fields, but not the cached look-ups: they would be the original's."""
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    @cached_property
    def models_by_name(self) -> dict[str, Model]:
        """Name → model."""
        return {m.name: m for m in self.models}

    @cached_property
    def twins(self) -> dict[str, Model]:
        """Model → its other version, where one is loaded or on its way."""
        return {m.twin_of: m for m in self.models if m.twin_of is not None}

    @cached_property
    def devices_by_id(self) -> dict[str, Device]:
        """Device id → device."""
        return {d.id: d for d in self.devices}

    @cached_property
    def bookings_by_device(self) -> dict[str, tuple[Booking, ...]]:
        """Device id → its bookings (missing where there are none)."""
        found: dict[str, list[Booking]] = {}
        for booking in self.bookings:
            found.setdefault(booking.device, []).append(booking)
        return {device: tuple(held) for device, held in found.items()}

    @cached_property
    def failures_by_class(self) -> dict[ModelClass, tuple[ClassFailures, ...]]:
        """Class → what failed of it (missing where nothing did)."""
        found: dict[ModelClass, list[ClassFailures]] = {}
        for failures in self.class_failures:
            found.setdefault(failures.model_class, []).append(failures)
        return {model_class: tuple(known) for model_class, known in found.items()}

    @cached_property
    def runtimes_by_name(self) -> dict[RuntimeName, RuntimeStatus]:
        """Runtime → its status, on several nodes the best one."""
        return {r.name: r for r in sorted(self.runtimes, key=_worst_first)}

    @cached_property
    def nodes_by_name(self) -> dict[str, Node]:
        """Name → node."""
        return {node.name: node for node in self.nodes}

    def runtime_on(self, runtime: RuntimeName, node: str) -> RuntimeStatus | None:
        """Return the status of ``runtime`` on ``node``; ``None``: it does not have it."""
        return self._runtimes_by_node.get((runtime, node)) or self._runtimes_by_node.get(
            (runtime, "")
        )

    @cached_property
    def _runtimes_by_node(self) -> dict[tuple[RuntimeName, str], RuntimeStatus]:
        return {(r.name, r.node): r for r in self.runtimes}


def _worst_first(status: RuntimeStatus) -> tuple[bool, bool, bool]:
    return status.enabled and status.healthy, status.enabled, status.starting
