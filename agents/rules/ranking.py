"""The order of models that wait for memory: class, waiting time, value; none starves (pure)."""

from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import Model, Priority
from modelium.policy import Policy

RAISE_AFTER_S = 600.0
"""Each period of waiting this long raises a model by one class: most loads take less."""

STARVING_AFTER_S = 1800.0
"""After waiting this long a model ranks first and may evict as if a request waited for it."""

STARVED = -4
"""The class of starving models in a `Rank`: before every other, however long that one waits."""

Rank = tuple[float, int, float, float, str]
"""Sort key of a waiting model; the smaller goes first."""


def priority_class(model: Model, policy: Policy) -> Priority:
    """Return the class of ``model``, never above its ceiling.

    The class that the operator gave it, or a better one from its team: models of
    ``high_priority_teams`` are high once they had a request, medium before.
    """
    best = model.priority
    if model.team in policy.high_priority_teams:
        known = model.traffic.first_request_at is not None
        derived = Priority.HIGH if known else Priority.MEDIUM
        best = min(best, derived, key=lambda p: p.rank)
    return max(best, model.priority_ceiling, key=lambda p: p.rank)


def waiting_class(model: Model, policy: Policy) -> Priority:
    """Return the class that ``model`` waits with: its own, or the best of its waiting requests.

    Never above its ceiling. It returns to its own class when those requests are gone.
    """
    requested = model.traffic.pending_priority or Priority.LOW
    best = min(priority_class(model, policy), requested, key=lambda p: p.rank)
    return max(best, model.priority_ceiling, key=lambda p: p.rank)


def waiting_s(model: Model, *, now: float) -> float:
    """Return the seconds that ``model`` has waited for memory."""
    since = model.queued_at if model.queued_at is not None else model.state_since
    return max(0.0, now - since)


def is_starving(model: Model, *, now: float) -> bool:
    """Whether ``model`` has waited in the queue for `STARVING_AFTER_S`."""
    return model.state is ModelState.QUEUED and waiting_s(model, now=now) >= STARVING_AFTER_S


def may_retry(model: Model, *, now: float) -> bool:
    """Whether ``model`` is analyzed, not quarantined, and not backing off after failed loads."""
    if model.profile is None or model.quarantined:
        return False
    return model.retry_at is None or model.retry_at <= now


def rank(model: Model, policy: Policy, *, now: float, value: float) -> Rank:
    """Return the sort key of ``model`` among waiting models.

    Starving models first, the longest wait before all: nothing that arrives later passes them.
    Then those with waiting requests, then by class (raised with the waiting time), value, waiting
    time and name.
    """
    waited = waiting_s(model, now=now)
    if is_starving(model, now=now):
        return (0, STARVED, 0.0, -waited, model.name)
    raised = waiting_class(model, policy).rank - int(waited // RAISE_AFTER_S)
    urgent = 0 if model.traffic.pending else 1
    return (urgent, max(-3, raised), -value, -waited, model.name)
