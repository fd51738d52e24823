"""The operator's rules, as planner and validator read them (no I/O here)."""

from __future__ import annotations

from pydantic import Field

from modelium.models import Frozen, RuntimeName


class RuntimeRules(Frozen):
    """The rules for one runtime."""

    enabled: bool = True
    default_settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Settings of a load that the plan does not set."""
    allowed_extra: frozenset[str] = frozenset()
    """Engine arguments that `LoadSettings.extra` may carry."""


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
    max_model_len_floor: int = 1024
    """The shortest context, in tokens, that a load may be shrunk to."""
    max_num_seqs_floor: int = 1
    allow_remote_code: bool = False
    allow_pickle: bool = False
    runtimes: dict[RuntimeName, RuntimeRules] = Field(default_factory=dict)

    def rules(self, runtime: RuntimeName) -> RuntimeRules:
        """Return the rules of ``runtime``; a runtime that is not configured is disabled."""
        return self.runtimes.get(runtime, RuntimeRules(enabled=False))
