"""The operator's rules, as the planner and the validator read them (no I/O here)."""

from __future__ import annotations

from pydantic import Field

from modelium.models import Frozen, RuntimeName


class RuntimeRules(Frozen):
    """What plans may do with one runtime."""

    enabled: bool = True
    default_settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Settings that a load takes where the plan names none."""
    allowed_extra: frozenset[str] = frozenset()
    """Engine arguments that `LoadSettings.extra` may carry."""


class Policy(Frozen):
    """The seed's ``policies`` block and what goes with it, as the planner reads it."""

    enabled: bool = True
    """False: observe and serve, do not act."""
    auto_unload_after_s: float = 3600.0
    min_qps_threshold: float = 0.1
    pending_requests_threshold: int = 0
    always_loaded: frozenset[str] = frozenset()
    max_gpu_memory_utilization: float = 0.9
    enable_model_swapping: bool = True
    high_priority_teams: frozenset[str] = frozenset()
    min_residency_s: float = 60.0
    """A model is not evicted for another one sooner than this after it became ready."""
    reload_cooldown_s: float = 30.0
    """A model evicted for space is not brought back sooner except by demand or an operator."""
    max_model_len_floor: int = 1024
    """Shrinking to fit never goes below this context."""
    max_num_seqs_floor: int = 1
    allow_remote_code: bool = False
    allow_pickle: bool = False
    runtimes: dict[RuntimeName, RuntimeRules] = Field(default_factory=dict)

    def rules(self, runtime: RuntimeName) -> RuntimeRules:
        """Rules of ``runtime``; a runtime that is not configured is disabled."""
        return self.runtimes.get(runtime, RuntimeRules(enabled=False))
