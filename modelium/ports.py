"""Protocols of what the core needs. Implementations satisfy them without inheritance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

from modelium.models import (
    Deployment,
    Device,
    Fleet,
    LoadSettings,
    Model,
    ModelProfile,
    Node,
    Plan,
    Report,
    RuntimeName,
    RuntimeStatus,
    Trigger,
    Upstream,
)
from modelium.models.advice import Advice
from modelium.policy import Policy

P = ParamSpec("P")
R = TypeVar("R")


class Clock(Protocol):
    """Time, injected so that tests and replays control it."""

    def time(self) -> float:
        """Seconds since the epoch, UTC."""

    def system_time(self) -> float:
        """Seconds since the epoch by the system's clock, which files are stamped with."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class DeviceInventory(Protocol):
    """The devices of this node. Blocking: call it off the event loop."""

    def snapshot(self) -> tuple[Device, ...]:
        """All devices as they are now; a device that cannot be read is unhealthy, not absent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Which part of a model over several nodes a node loads.

    Rank 0 answers for the whole model; the others serve it and have no upstream.
    """

    rank: int
    addresses: tuple[str, ...]
    """Of the nodes for one another, by rank: host names or IP addresses without a port."""
    port: int
    """Where the parts meet, on the node of rank 0."""
    interface: str = ""
    """The network interface of this node's address; empty: the driver looks it up."""

    @property
    def own(self) -> str:
        """The address of this node."""
        return self.addresses[self.rank]

    @property
    def meeting(self) -> tuple[str, int]:
        """Address and port at which the parts meet."""
        return self.addresses[0], self.port


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadRequest:
    """All that a driver needs to load one model; memory is already booked for it."""

    model: str
    version: int
    path: str
    """The model's folder in the repository, absolute."""
    profile: ModelProfile
    settings: LoadSettings
    devices: tuple[Device, ...]
    reserve: Mapping[str, int]
    """Device id → bytes that the model may take there. A driver never lets it take more."""
    operator_settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What the operator sets for this model; its engine arguments are allowed."""
    allow_remote_code: bool = False
    deadline_s: float = 3600.0
    """Hard bound on the whole load; drivers fail earlier on a lack of progress."""
    span: Span | None = None
    """Set where the model is loaded over several nodes; ``devices`` are those of this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A loaded model that answers, or a part of one that runs."""

    upstream: Upstream | None
    """``None``: a part of a `Span` other than the first, which answers for it."""
    handle: dict[str, Any] = field(default_factory=dict)
    """JSON notes that let `Runtime.discover` and `Runtime.unload` find it after a restart."""
    settings: LoadSettings | None = None
    """What it runs with, where the driver had to reduce the request's settings; else ``None``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A model that a runtime was found to hold (loaded by this process or by an earlier one)."""

    model: str
    state: Literal["loading", "ready", "sleeping", "unhealthy"]
    upstream: Upstream | None = None
    handle: dict[str, Any] = field(default_factory=dict)
    pids: tuple[int, ...] = ()
    """Its processes on this node, for attributing resident memory."""
    detail: str = ""
    own: bool = False
    """It is certain that this service started it, in an engine or a server of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """A runtime's own counters for one model, monotonic since it was loaded."""

    running: int = 0
    waiting: int = 0
    completed: int = 0
    failed: int = 0
    http_requests: int | None = None
    """Requests answered over HTTP, where one may hold a batch of those counted above."""
    latency_sum_s: float = 0.0
    queue_sum_s: float = 0.0
    """Seconds that the ended requests waited in the engine; 0: it does not measure that."""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    kv_usage: float | None = None
    """0…1."""
    last_inference_at: float | None = None
    resident_bytes: int | None = None
    """On a CPU device: memory of the model's processes."""


Progress = Callable[[str, float | None], None]
"""Called with a phase (``starting``, ``loading weights`` …) and a share 0…1 where known."""


class Runtime(Protocol):
    """A serving runtime. An async context manager: entering connects, leaving keeps models loaded.

    Every call has a deadline and raises from `modelium.errors`: `Unavailable` where
    the runtime does not answer, `LoadFailed` with a kind where it refused a model.
    All methods are idempotent, and safe to call concurrently for different models.
    """

    name: RuntimeName

    async def __aenter__(self) -> Runtime: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def end(self, *, grace_s: float) -> None:
        """End every model that Modelium loaded here, and a server that Modelium started.

        For good: nothing but leaving is called afterwards; entering before is not needed.
        Servers, clusters and models of others stay. Requests in flight get ``grace_s``.

        Raises:
            ModeliumError: something of it could not be ended.
        """

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        """Load until it answers. A second load of the same model joins the first.

        Cancelling it, or any failure, leaves nothing of the model behind.
        """

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        """Unload until its memory is given back; unknown models are fine."""

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Give device memory back but stay; only where `status().can_sleep`."""

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Undo `sleep`."""

    async def status(self) -> RuntimeStatus:
        """Whether it answers; never raises for a runtime that is down."""

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """Return the models that it runs now. ``handles``: those of the store, by model.

        Models that no longer run are left out, but one of ``handles`` that is found to have ended
        since the last call may be reported once as unhealthy, with how it ended. Running ones are
        adopted, so that later calls work on them. A pause is no reason for unhealthy: see
        `runtimes.process.patience`.
        """

    async def check(self, model: str, *, handle: Mapping[str, Any]) -> str:
        """Send ``model`` the smallest real request, whose failure is not a client's fault.

        Return what is wrong; empty: it answers, or the driver knows no such request.
        """

    async def stats(self) -> Mapping[str, EngineStats]:
        """Return model → counters, for every loaded model that reports them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The input of the brain, beside the snapshot."""

    trigger: Trigger
    model: str | None = None
    """The subject; ``None``: the whole fleet (sweep, upkeep, review)."""
    now: float = 0.0
    unload_idle: bool = True
    """Whether a sweep or a review may unload models for idling alone; upkeep never does."""


class Brain(Protocol):
    """Turns a snapshot into a plan. Never acts; the caller validates the plan."""

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        """Return advice on ``question``, which may take seconds; ``None``: `decide` needs none.

        Called once per question, however often `decide` is called as the fleet changes.
        Never raises: a failure is reported in `Advice.fallback`.
        """

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        """Return a plan at once, following ``advice`` as far as the rules allow.

        Never raises for a model it cannot place: it queues or rejects.
        """


class Steps(Protocol):
    """Runs one step of a stage: directly, or as a Prefect task with retries."""

    async def __call__(
        self, name: str, step: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Await ``step`` under ``name``; its error is raised unchanged."""


Stage = Literal["ingest", "analyze", "decide", "load", "monitor", "evict"]


class FileSource(Protocol):
    """The files of models on one other node. Every call is bounded in time and in bytes."""

    node: str
    """Its name."""

    async def manifest(self, model: str, version: int) -> bytes:
        """Return the list of a version's files: JSON of `modelium.intake.manifest.Manifest`.

        Raises:
            TransientError: the node does not give it now.
        """

    async def chunk(self, model: str, version: int, name: str, index: int, size: int) -> bytes:
        """Return chunk ``index``, of ``size`` bytes, of the file ``name``, checked by its hash.

        Raises:
            TransientError: the node does not give it now.
            BadManifest: what came is not what the node said.
        """


class FileSources(Protocol):
    """How this node reaches the files of others."""

    def of(self, node: Node) -> FileSource | None:
        """Return the files of ``node``; ``None``: it has no address for other nodes."""


class Peers(Protocol):
    """How this node's gateway reaches the gateways of other nodes."""

    def upstream(self, model: Model, deployment: Deployment, node: Node) -> Upstream | None:
        """Where requests for ``model`` go that ``node`` answers; ``None``: not from here."""


class Launcher(Protocol):
    """Runs stages, each as a recorded Prefect run, or unrecorded while Prefect is unavailable.

    Each method returns a run that begins when it is awaited; it returns the stage's report or
    raises what the stage raises. Cancelling it cancels the stage and waits for its clean-up.
    """

    def ingest(
        self,
        *,
        path: str,
        name: str | None = None,
        team: str | None = None,
        priority_ceiling: str | None = None,
        intent: str | None = None,
        missing: str | None = None,
        bound: str | None = None,
    ) -> Awaitable[Report]:
        """Take the drop at ``path`` into the model repository; see `modelium.stages.ingest`."""

    def analyze(self, *, model: str) -> Awaitable[Report]:
        """Find out what ``model`` is and needs; see `modelium.stages.analyze`."""

    def decide(
        self,
        *,
        model: str | None = None,
        trigger: Trigger,
        plan: Plan | None = None,
        carry_out: bool = True,
    ) -> Awaitable[Report]:
        """Plan, book and carry out; see `modelium.stages.decide`."""

    def load(
        self, *, model: str, decision: str | None = None, trigger: Trigger = Trigger.OPERATOR
    ) -> Awaitable[Report]:
        """Load ``model`` as ``decision`` says; see `modelium.stages.load`."""

    def monitor(self) -> Awaitable[Report]:
        """Reconcile the store with what the runtimes run; see `modelium.stages.monitor`."""

    def evict(
        self, *, models: Sequence[str] | None = None, decision: str | None = None, reason: str = ""
    ) -> Awaitable[Report]:
        """Drain and unload ``models``; see `modelium.stages.evict`."""

    def start(self, run: Awaitable[Report]) -> None:
        """Await ``run`` in the background; its failure is logged."""


class Telemetry(Protocol):
    """Receives what happened, for metrics. Every method is cheap and never raises."""

    def on_load_finished(self, runtime: RuntimeName, *, seconds: float, outcome: str) -> None:
        """A load ended: ``ready``, ``failed`` or ``cancelled``."""

    def on_load_phase(self, runtime: RuntimeName, phase: str, *, seconds: float) -> None:
        """A phase of a load ended; ``phase`` is the word of `Progress`."""

    def on_evicted(self, reason: str) -> None:
        """A model left device memory."""

    def on_lost(self, model: str) -> None:
        """A runtime lost a model that was loaded."""

    def on_decision(self, *, author: str, trigger: str, seconds: float, fallback: str = "") -> None:
        """A plan was made."""

    def on_plan_refused(self, rules: Iterable[str]) -> None:
        """The policy refused a plan; ``rules``: those that it breaks."""

    def on_stage_finished(self, stage: str, *, outcome: str) -> None:
        """A stage ended: ``completed``, ``cancelled``, ``bug``, or its error's slug."""

    def on_tick(self, *, seconds: float, failed: bool) -> None:
        """The control loop ticked once."""

    def on_request_lines_lost(self, count: int) -> None:
        """Lines of the request log were dropped because the store did not take them."""

    def on_task_failed(self, task: str) -> None:
        """A background task ended with an error, and is begun again."""

    def observe(self, fleet: Fleet) -> None:
        """The control loop took ``fleet``."""
