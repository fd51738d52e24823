"""Plans and their actions, decisions, events, operator requests, stage reports (no I/O here)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from modelium.models.base import Frozen, Priority, RuntimeName
from modelium.models.departures import Departure
from modelium.models.profile import LoadSettings, Preference


class Trigger(StrEnum):
    """What caused a decision."""

    INGEST = "ingest"
    """A new or changed model."""
    DEMAND = "demand"
    """A request for a model that is not loaded. Such a decision never waits for an LLM."""
    OPERATOR = "operator"
    """An operator's load or unload."""
    TEAM = "team"
    """A load that a key of the model's team asks for: like a request's, it keeps the quotas."""
    SWEEP = "sweep"
    """The whole fleet: idle models, memory pressure, queued models, always_loaded."""
    UPKEEP = "upkeep"
    """A sweep that unloads no idle models: those have their own pace, which may be paused."""
    REVIEW = "review"
    """The brain's periodic review of the whole fleet."""


class EvictionCause(StrEnum):
    """The cause of an unload; the ``reason`` label of the metric ``evictions``."""

    IDLE = "idle"
    """It had too few requests for too long."""
    SPACE = "space"
    """Another model needs its memory."""
    PRESSURE = "pressure"
    """Use of its device exceeds max_gpu_memory_utilization."""
    OPERATOR = "operator"
    """An operator asked for it."""
    REPLACED = "replaced"
    """A newer version of the same model replaces it."""
    DRAIN = "drain"
    """Its node is being drained, and another one can hold it."""
    REVIEW = "review"
    """The LLM proposed it in a review."""
    RULES = "rules"
    """The rules decided, for none of the other causes. The default for stored plans without one."""


class Load(Frozen):
    """Load a model, or wake a sleeping one."""

    action: Literal["load"] = "load"
    model: str
    runtime: RuntimeName
    devices: tuple[str, ...]
    settings: LoadSettings = LoadSettings()
    reserve: dict[str, int]
    """Device id → bytes to book on it."""
    priority: Priority = Priority.LOW
    reason: str


class Unload(Frozen):
    """Take a model out of device memory."""

    action: Literal["unload"] = "unload"
    model: str
    sleep: bool = False
    """Keep the engine process with its weights in host RAM (level-1 sleep)."""
    requeue: bool = False
    """Queue it again: a higher class displaced it before it served any request."""
    cause: EvictionCause = EvictionCause.RULES
    """For metrics and history; ``reason`` is the explanation for people."""
    reason: str


class Keep(Frozen):
    """Leave the state of a model unchanged."""

    action: Literal["keep"] = "keep"
    model: str
    reason: str


class Queue(Frozen):
    """Queue a model that should run but does not fit now."""

    action: Literal["queue"] = "queue"
    model: str
    priority: Priority = Priority.LOW
    reason: str


class Reject(Frozen):
    """Mark a model as failed: it cannot run with this configuration."""

    action: Literal["reject"] = "reject"
    model: str
    reason: str


Action = Annotated[Load | Unload | Keep | Queue | Reject, Field(discriminator="action")]


class Candidate(Frozen):
    """An alternative that the planner considered."""

    model: str = ""
    """The model that would be loaded; empty in decisions stored without it."""
    runtime: RuntimeName | None = None
    devices: tuple[str, ...] = ()
    evicts: tuple[str, ...] = ()
    score: float | None = None
    """Higher is better; comparable within one plan only."""
    lost: str = ""
    """Why it was not chosen; empty: it was chosen."""


class Plan(Frozen):
    """Actions in order: unloads come before the loads that need their memory."""

    author: str
    """``rules``, ``llm``, ``operator``."""
    trigger: Trigger
    subject: str | None = None
    """The model that the plan was requested for; ``None``: the whole fleet."""
    actions: tuple[Action, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    reason: str = ""
    fallback: str = ""
    """Why the LLM's plan was not used: a slug, then ``: `` and the detail."""
    preferences: dict[str, Preference] = Field(default_factory=dict)
    """Model → preferred runtime and settings from now on; stored when the plan is accepted."""
    departures: tuple[Departure, ...] = ()
    """What an LLM does otherwise than the rules; stored when the plan is accepted."""
    revision: int = 0
    """The `Fleet.revision` that the plan is based on."""
    at: float = 0.0
    """When the snapshot that the plan is based on was taken."""

    @property
    def loads(self) -> tuple[Load, ...]:
        """The loads among the actions."""
        return tuple(action for action in self.actions if isinstance(action, Load))

    @property
    def unloads(self) -> tuple[Unload, ...]:
        """The unloads among the actions."""
        return tuple(action for action in self.actions if isinstance(action, Unload))


class Violation(Frozen):
    """One rule that a plan breaks."""

    rule: str
    subject: str
    """The model (or device) that breaks it."""
    message: str
    """The fact, and what is allowed."""


class Decision(Frozen):
    """A stored plan with everything that is needed to explain it later."""

    id: str
    at: float
    plan: Plan
    snapshot_digest: str
    violations: tuple[Violation, ...] = ()
    outcome: Literal["accepted", "refused", "stale", "done", "failed"] = "accepted"
    detail: str = ""
    finished_at: float | None = None
    node: str = ""
    """The node that planned; empty: the only one."""
    epoch: int = 0
    """Of the node that planned; grows each time that another one does."""
    trace: dict[str, Any] = Field(default_factory=dict)
    """The brain's record of how it decided: messages, tool calls, tokens, latency."""


class Event(Frozen):
    """Something that happened to a model or a device."""

    id: int = 0
    at: float
    kind: str
    """``model.ready``, ``model.evicted``, ``drop.rejected``, ``runtime.down`` …"""
    model: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


IntentKind = Literal[
    "ingest", "load", "retry", "unload", "approve", "remove", "rollback", "restore"
]


class Intent(Frozen):
    """An operator's request, and its outcome."""

    id: str
    at: float
    kind: IntentKind
    model: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    state: Literal["pending", "done", "failed"] = "pending"
    detail: str = ""
    """Outcome or error, in one line."""
    finished_at: float | None = None
    node: str = ""
    """The node that was asked; empty: the only one."""


class Report(Frozen):
    """The result of a stage, for run pages, logs and the CLI."""

    stage: Literal["ingest", "analyze", "decide", "load", "monitor", "evict"]
    outcome: str
    """One word: ``registered``, ``rejected``, ``ready``, ``queued``, ``unloaded``, ``nothing`` …"""
    model: str | None = None
    runtime: RuntimeName | None = None
    devices: tuple[str, ...] = ()
    reason: str = ""
    decision: str | None = None
    """Id of the decision that the stage made or carried out."""
    details: dict[str, Any] = Field(default_factory=dict)
    """JSON values; flows render them as a table in the run's artifact."""
