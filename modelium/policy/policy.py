"""The operator's rules, as planner and validator read them (no I/O here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modelium.models import DepartureKind, Frozen, RuntimeName
from modelium.models.settings import Value, split

OWN_PROCESS = frozenset({RuntimeName.VLLM, RuntimeName.LLAMA_CPP})


class RuntimeRules(Frozen):
    """The rules for one runtime."""

    enabled: bool = True
    default_settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Settings of a load that the plan does not set."""
    allowed_extra: frozenset[str] = frozenset()
    """Engine arguments that `LoadSettings.extra` may carry."""


class TeamRules(Frozen):
    """The rules for one team."""

    memory_bytes: int | None = None
    """Most bytes that its loaded models may hold together; ``None``: no quota."""
    gpu_seconds_per_day: float | None = None
    """Most that it may use within 24 hours, see `modelium.policy.quotas`; ``None``: no quota."""
    weight: float = 1.0
    """Its share in the queue, relative to the other teams'."""


class Policy(Frozen):
    """The ``policies`` section of the configuration, the model flags and the runtimes' rules."""

    enabled: bool = True
    """False: observe and serve, but load and unload nothing."""
    auto_unload_after_s: float = 3600.0
    min_qps_threshold: float = 0.1
    pending_requests_threshold: int = 0
    always_loaded: frozenset[str] = frozenset()
    max_gpu_memory_utilization: float = 0.9
    kv_cache_share: float = 0.5
    """Share of a GPU's free memory that a load may add to its KV cache."""
    enable_model_swapping: bool = True
    high_priority_teams: frozenset[str] = frozenset()
    min_residency_s: float = 60.0
    """Seconds after it became ready during which no other model displaces a model."""
    reload_cooldown_s: float = 30.0
    """Seconds after an eviction before the loop may reload; demand and operators need not wait."""
    healthy_after_s: float = 600.0
    """Seconds after it became ready from which on a model that is lost had been healthy."""
    quarantine_after: int = 5
    """Failed attempts in a row after which a model is not tried again by itself."""
    attempts_per_runtime: int = 2
    """Attempts that a runtime fails before another one that can serve the model is preferred."""
    avoid_runtime_after: int = 3
    """Loads of a class of models that fail in a row in a runtime before another one is preferred
    for the class; 0: never. See `modelium.policy.track_record`."""
    avoid_runtime_s: float = 86_400.0
    """Seconds after the last of these failures during which they count."""
    max_model_len_floor: int = 1024
    """The shortest context, in tokens, that a load may be shrunk to."""
    max_num_seqs_floor: int = 1
    allow_remote_code: bool = False
    allow_pickle: bool = False
    departures: dict[DepartureKind, float] = Field(default_factory=dict)
    """Kind → load-seconds per hour that departures of an LLM may give up; a kind that is missing is
    not allowed. Empty: it advises only."""
    placement: Literal["pack", "spread"] = "pack"
    """Over several nodes: as few as can hold the models, or those with the most free memory."""
    model_nodes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Model → names of nodes, or ``label=value``, of which one must hold for a node to load it."""
    time_zone: str = "UTC"
    """IANA name of the zone in which an LLM is told the time."""
    runtimes: dict[RuntimeName, RuntimeRules] = Field(default_factory=dict)
    model_settings: dict[str, dict[str, Value]] = Field(default_factory=dict)
    """Model → settings that the operator gives it; they precede those of the runtime."""
    teams: dict[str, TeamRules] = Field(default_factory=dict)
    """The declared teams."""

    def settings(
        self, runtime: RuntimeName, model: str | None = None
    ) -> tuple[dict[str, Value], dict[str, Value]]:
        """Return the operator's load settings of ``model`` on ``runtime``, and engine arguments.

        A model's own engine arguments go to runtimes with a process of its own.
        """
        known, extra = split(self.rules(runtime).default_settings)
        own, arguments = split(self.model_settings.get(model or "", {}))
        return {**known, **own}, {**extra, **(arguments if runtime in OWN_PROCESS else {})}

    def rules(self, runtime: RuntimeName) -> RuntimeRules:
        """Return the rules of ``runtime``; a runtime that is not configured is disabled."""
        return self.runtimes.get(runtime, RuntimeRules(enabled=False))
