"""Plans, what became of them, and what stages and operators are told (no I/O here)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from modelium.models.base import Frozen, Priority, RuntimeName
from modelium.models.profile import LoadSettings, Preference


class Trigger(StrEnum):
    """What asked for a decision."""

    INGEST = "ingest"
    """A new or changed model."""
    DEMAND = "demand"
    """A request for a model that is not loaded; never waits for an LLM."""
    OPERATOR = "operator"
    SWEEP = "sweep"
    """The loop: idle models, pressure, queue, always_loaded."""
    REVIEW = "review"
    """The brain's periodic look at the whole fleet."""


class EvictionCause(StrEnum):
    """Why a plan takes a model out of device memory."""

    IDLE = "idle"
    SPACE = "space"
    """Another model needs its memory."""
    PRESSURE = "pressure"
    """The device is used over its cap."""
    OPERATOR = "operator"
    REPLACED = "replaced"
    """A newer version takes its place."""
    REVIEW = "review"
    """An LLM's review."""
    RULES = "rules"
    """None of the above."""


class Load(Frozen):
    """Load (or wake) a model."""

    action: Literal["load"] = "load"
    model: str
    runtime: RuntimeName
    devices: tuple[str, ...]
    settings: LoadSettings = LoadSettings()
    reserve: dict[str, int]
    """Device id → bytes to book."""
    priority: Priority = Priority.LOW
    reason: str


class Unload(Frozen):
    """Take a model out of device memory."""

    action: Literal["unload"] = "unload"
    model: str
    sleep: bool = False
    """Keep the process (level-1 sleep) where the engine can."""
    requeue: bool = False
    """It lost its place to a better class before anybody asked for it: it waits for the next."""
    cause: EvictionCause = EvictionCause.RULES
    reason: str


class Keep(Frozen):
    """Leave a model as it is."""

    action: Literal["keep"] = "keep"
    model: str
    reason: str


class Queue(Frozen):
    """Wanted, but not now."""

    action: Literal["queue"] = "queue"
    model: str
    priority: Priority = Priority.LOW
    reason: str


class Reject(Frozen):
    """Never, as things are configured."""

    action: Literal["reject"] = "reject"
    model: str
    reason: str


Action = Annotated[Load | Unload | Keep | Queue | Reject, Field(discriminator="action")]


class Candidate(Frozen):
    """An alternative that was weighed, and why it lost (empty ``lost``: it won)."""

    runtime: RuntimeName | None = None
    devices: tuple[str, ...] = ()
    evicts: tuple[str, ...] = ()
    score: float | None = None
    """Higher is better; comparable within one plan only."""
    lost: str = ""


class Plan(Frozen):
    """What to do, in order: unloads stand before the loads that need their space."""

    author: str
    """``rules``, ``llm``, ``operator``."""
    trigger: Trigger
    subject: str | None = None
    """The model that the question was about; ``None`` for the whole fleet."""
    actions: tuple[Action, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    reason: str = ""
    fallback: str = ""
    """Why a better author's plan was not used: a slug, then ``: `` and the detail."""
    preferences: dict[str, Preference] = Field(default_factory=dict)
    """Model → how it had better be loaded from now on; kept when the plan is accepted."""
    revision: int = 0
    """The `Fleet.revision` that it was made on."""


class Violation(Frozen):
    """One rule that a plan breaks."""

    rule: str
    subject: str
    """The model (or device) it is about."""
    message: str
    """What is wrong and what is allowed."""


class Decision(Frozen):
    """A plan as it is kept: enough to explain it later."""

    id: str
    at: float
    plan: Plan
    snapshot_digest: str
    violations: tuple[Violation, ...] = ()
    outcome: Literal["accepted", "refused", "stale", "done", "failed"] = "accepted"
    detail: str = ""
    finished_at: float | None = None
    trace: dict[str, Any] = Field(default_factory=dict)
    """The brain's own record: messages, tool calls, tokens, latency."""


class Event(Frozen):
    """Something that happened to a model or a device."""

    id: int = 0
    at: float
    kind: str
    """``model.ready``, ``model.evicted``, ``drop.rejected``, ``runtime.down`` …"""
    model: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class Intent(Frozen):
    """What an operator asked for, and what became of it."""

    id: str
    at: float
    kind: Literal["ingest", "load", "unload", "approve"]
    model: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    state: Literal["pending", "done", "failed"] = "pending"
    detail: str = ""
    """Outcome or error, in one line."""
    finished_at: float | None = None


class Report(Frozen):
    """What a stage did: shown in run pages, logs and the CLI."""

    stage: Literal["ingest", "analyze", "decide", "load", "monitor", "evict"]
    outcome: str
    """One word: ``registered``, ``rejected``, ``ready``, ``queued``, ``unloaded``, ``nothing`` …"""
    model: str | None = None
    runtime: RuntimeName | None = None
    devices: tuple[str, ...] = ()
    reason: str = ""
    decision: str | None = None
    """Id of the decision that it made or carried out."""
    details: dict[str, Any] = Field(default_factory=dict)
    """JSON values; flows render them as a table in the run's artifact."""
