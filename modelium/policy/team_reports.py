"""What each team has of what it may have (no I/O here)."""

from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import Fleet
from modelium.models.teams import TeamReport
from modelium.policy.action_checks import gib
from modelium.policy.policy import Policy, TeamRules
from modelium.policy.quotas import team_bytes

NO_RULES = TeamRules()


def team_reports(fleet: Fleet, policy: Policy) -> list[TeamReport]:
    """Return a report of each team that is declared or owns a model, by name."""
    owned = {model.team for model in fleet.models if model.team is not None}
    return [_report(team, fleet, policy) for team in sorted(owned | policy.teams.keys())]


def _report(team: str, fleet: Fleet, policy: Policy) -> TeamReport:
    rules = policy.teams.get(team, NO_RULES)
    models = [model for model in fleet.models if model.team == team and model.twin_of is None]
    return TeamReport(
        name=team,
        declared=team in policy.teams,
        weight=rules.weight,
        models=len(models),
        loaded=sum(model.deployment is not None for model in models),
        queued=sum(model.state is ModelState.QUEUED for model in models),
        held_bytes=team_bytes(team, fleet),
        memory_quota_bytes=rules.memory_bytes,
        gpu_seconds=fleet.used.get(team, 0.0),
        gpu_seconds_quota=rules.gpu_seconds_per_day,
    )


def described(report: TeamReport) -> str:
    """Return ``report`` as one sentence."""
    memory, used = gib(report.held_bytes), f"{report.gpu_seconds:.0f}"
    if report.memory_quota_bytes is not None:
        memory += f" of its {gib(report.memory_quota_bytes)}"
    if report.gpu_seconds_quota is not None:
        used += f" of its {report.gpu_seconds_quota:g}"
    text = f"team {report.name} holds {memory} of device memory"
    if report.declared:
        text += f" and has used {used} GPU-seconds in 24 h; its weight is {report.weight:g}"
    return text
