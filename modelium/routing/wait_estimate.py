"""What a request that waits for a model can expect: how long, or why not at all (no I/O here)."""

from __future__ import annotations

from dataclasses import dataclass

from modelium.lifecycle import ModelState
from modelium.models import Fleet, Model
from modelium.models.load_time import load_seconds

AHEAD_NAMED = 3
"""How many of those ahead in the queue are named; a message is no list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """When a model probably answers, and why not sooner."""

    ready_in_s: float
    reason: str
    hopeless: bool = False
    """It will not be tried before ``ready_in_s`` have passed: waiting is of no use."""


def outlook(model: Model, fleet: Fleet) -> Outlook:
    """Say what who waits for ``model`` can expect.

    Loads are taken as one after the other, those ahead in the queue first: a Retry-After that
    is too long costs a client some seconds, one that is too short a second refusal.
    """
    if model.state is ModelState.LOADING:
        took, needs = max(0.0, fleet.at - model.state_since), load_seconds(model)
        return Outlook(
            ready_in_s=max(1.0, needs - took),
            reason=f"it has been loading for {took:.0f} s of about {needs:.0f} s",
        )
    if model.state is ModelState.QUEUED:
        return _queued(model, fleet)
    if model.retry_at is not None and model.retry_at > fleet.at:
        return Outlook(
            ready_in_s=model.retry_at - fleet.at,
            reason=f"its last load failed: {model.reason}",
            hopeless=True,
        )
    return Outlook(ready_in_s=load_seconds(model), reason=model.reason)


def _queued(model: Model, fleet: Fleet) -> Outlook:
    since = model.queued_at or model.state_since
    ahead = [
        other
        for other in fleet.models
        if other.state is ModelState.QUEUED
        and other.name != model.name
        and other.traffic.pending
        and (other.queued_at or other.state_since) < since
    ]
    ahead.sort(key=lambda other: other.queued_at or other.state_since)
    coming = [other for other in fleet.models if other.state is ModelState.LOADING]
    parts = []
    if ahead:
        more = len(ahead) - AHEAD_NAMED
        names = ", ".join(other.name for other in ahead[:AHEAD_NAMED])
        parts.append(f"queued behind {names}{f' and {more} more' if more > 0 else ''}")
    parts.append(model.reason or "queued")
    seconds = load_seconds(model) + sum(load_seconds(other) for other in (*coming, *ahead))
    return Outlook(ready_in_s=seconds, reason="; ".join(parts))
