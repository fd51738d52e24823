"""What runs, what it is asked for, and one snapshot of it all (no I/O here)."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field

from modelium.lifecycle import ModelState
from modelium.models.base import MODEL_NAME, Api, Frozen, Priority, RuntimeName
from modelium.models.devices import Booking, Device, RuntimeStatus
from modelium.models.profile import LoadSettings, MeasuredLoad, ModelProfile, Preference


class Upstream(Frozen):
    """Where a loaded model answers. Never assumed to be on this machine."""

    host: str
    port: int
    prefix: str = ""
    """Path before the API's own, e.g. ``/magika``."""
    served_name: str
    apis: frozenset[Api]
    api_key: str | None = Field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        """``http://host:port/prefix`` without a trailing slash."""
        return f"http://{self.host}:{self.port}{self.prefix}"


class Deployment(Frozen):
    """One model in one runtime: the hold that the store keeps on it."""

    model: str
    version: int
    runtime: RuntimeName
    devices: tuple[str, ...]
    settings: LoadSettings
    upstream: Upstream | None = None
    handle: dict[str, Any] = Field(default_factory=dict)
    """The driver's own notes for finding it again (pid, start time, application name …)."""
    started_at: float
    ready_at: float | None = None
    load_s: float | None = None


class Habit(Frozen):
    """At which times of the day a model was asked; `modelium.traffic.daily_pattern` reads and writes it."""

    day: int = 0
    """Of bit 0, in days since the epoch (UTC)."""
    slots: tuple[int, ...] = ()
    """Per quarter of an hour of the day; bit k: asked k days before ``day``. Empty: never."""


class Traffic(Frozen):
    """What requests to one model looked like up to the snapshot."""

    in_flight: int = 0
    pending: int = 0
    """Requests that wait for the model to be loaded (the seed's ``pending_requests``)."""
    pending_priority: Priority | None = None
    """The best class among those who sent them, where any has one (by API key)."""
    completed: int = 0
    failed: int = 0
    direct: int = 0
    """Of the completed and failed ones, those that went to the engine past the gateway."""
    qps: float = 0.0
    """Over the last minute."""
    qps_last_hour: float = 0.0
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    first_request_at: float | None = None
    last_request_at: float | None = None
    rates: tuple[float, ...] = ()
    """Decayed requests per second, one per horizon in `modelium.traffic.HORIZONS_S`."""
    hours: tuple[int, ...] = ()
    """Requests that ended in each of the last 24 hours, the present one last; empty where the
    history was not asked."""
    intervals: tuple[int, ...] = ()
    """Histogram of inter-arrival times; the bounds are `modelium.traffic.INTERVAL_BOUNDS_S`."""
    habit: Habit = Habit()


class Model(Frozen):
    """One registered model as a snapshot shows it."""

    name: Annotated[str, Field(pattern=MODEL_NAME)]
    version: int = 1
    path: str
    digest: str = ""
    state: ModelState
    state_since: float
    registered_at: float
    team: str | None = None
    priority: Priority = Priority.LOW
    priority_ceiling: Priority = Priority.HIGH
    """No plan may rank it above this; only the operator sets it."""
    pinned: bool = False
    approvals: frozenset[str] = frozenset()
    """What the operator allowed for it: ``remote-code``, ``pickle``."""
    profile: ModelProfile | None = None
    deployment: Deployment | None = None
    traffic: Traffic = Traffic()
    measured: tuple[MeasuredLoad, ...] = ()
    preference: Preference | None = None
    """Kept until a load with it fails or a new version comes."""
    failures: int = 0
    """Failed loads in a row."""
    retry_at: float | None = None
    """Not to be loaded before this instant (back-off after failures)."""
    evicted_at: float | None = None
    """When it last lost its place; anti-thrash cooldown counts from here."""
    queued_at: float | None = None
    reason: str = ""
    """Why it is in this state, in one line."""

    @property
    def outdated(self) -> bool:
        """Whether an older version than the registered one is deployed."""
        return self.deployment is not None and self.deployment.version != self.version

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
    """One immutable snapshot of everything that a decision may depend on."""

    at: float
    revision: int
    """The store's revision; a plan is accepted only while it still stands."""
    devices: tuple[Device, ...] = ()
    models: tuple[Model, ...] = ()
    bookings: tuple[Booking, ...] = ()
    runtimes: tuple[RuntimeStatus, ...] = ()

    def __copy__(self) -> Self:
        """Copy the fields alone: what is looked up in them would be that of the original."""
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    @cached_property
    def models_by_name(self) -> dict[str, Model]:
        """Name → model."""
        return {m.name: m for m in self.models}

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
    def runtimes_by_name(self) -> dict[RuntimeName, RuntimeStatus]:
        """Runtime → its status."""
        return {r.name: r for r in self.runtimes}
