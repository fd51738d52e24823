"""What a team has, as people and metrics are told it (no I/O here)."""

from __future__ import annotations

from modelium.models.base import Frozen


def named(team: str | None) -> str:
    """Return how a sentence names ``team``; empty or ``None``: that there is none."""
    return f"team {team}" if team else "no team"


class TeamReport(Frozen):
    """One team: its models, what they hold and have used, and its quotas."""

    name: str
    declared: bool
    """Whether the configuration has it; one without has no quotas, and no folder."""
    weight: float = 1.0
    models: int = 0
    loaded: int = 0
    queued: int = 0
    held_bytes: int = 0
    """Booked for its models on all devices."""
    memory_quota_bytes: int | None = None
    gpu_seconds: float = 0.0
    """Used in the last 24 hours."""
    gpu_seconds_quota: float | None = None
