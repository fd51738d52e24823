"""The operator's rules, and the pure validation that every plan must pass (no I/O here)."""

from modelium.policy.plan_check import PlanRejected, validate
from modelium.policy.policy import Policy, RuntimeRules, TeamRules

__all__ = ["PlanRejected", "Policy", "RuntimeRules", "TeamRules", "validate"]
