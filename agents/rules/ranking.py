"""Who goes first among models that wait for space: class, age and value; nobody starves."""

from __future__ import annotations

from modelium.models import Model, Priority
from modelium.policy import Policy

LIFT_AFTER_S = 600.0
"""Waiting this long lifts a model by one class: ten minutes outlast any load."""

STARVING_AFTER_S = 1800.0
"""Waiting this long, a model may swap as if a request waited for it, and goes first."""


def priority_class(model: Model, policy: Policy) -> Priority:
    """Return the class of ``model`` by the seed's rule, never above the operator's ceiling.

    High: what the operator says, and models of important teams with known traffic.
    Medium: new models of important teams. Low: the rest.
    """
    best = model.priority
    if model.team is not None and model.team in policy.high_priority_teams:
        known = model.traffic.first_request_at is not None
        derived = Priority.HIGH if known else Priority.MEDIUM
        best = min(best, derived, key=lambda p: p.rank)
    return max(best, model.priority_ceiling, key=lambda p: p.rank)


def waiting_class(model: Model, policy: Policy) -> Priority:
    """Return the class that ``model`` waits with: its own, or a better one of who asks for it.

    Not kept with the model: it counts as long as they wait.
    """
    asked = model.traffic.pending_priority or Priority.LOW
    best = min(priority_class(model, policy), asked, key=lambda p: p.rank)
    return max(best, model.priority_ceiling, key=lambda p: p.rank)


def waiting_s(model: Model, *, now: float) -> float:
    """Seconds that ``model`` has waited for a place."""
    since = model.queued_at if model.queued_at is not None else model.state_since
    return max(0.0, now - since)


def is_starving(model: Model, *, now: float) -> bool:
    """Whether ``model`` has waited so long that it may push in."""
    return waiting_s(model, now=now) >= STARVING_AFTER_S


def rank(
    model: Model, policy: Policy, *, now: float, value: float
) -> tuple[float, int, float, float, str]:
    """Sort key among waiting models; smaller goes first.

    Requests that wait now come before mere wishes, then the class, lifted with age, then value,
    then age. The name makes it total.
    """
    waited = waiting_s(model, now=now)
    lifted = waiting_class(model, policy).rank - int(waited // LIFT_AFTER_S)
    urgent = 0 if model.traffic.pending or is_starving(model, now=now) else 1
    return (urgent, max(-3, lifted), -value, -waited, model.name)
