"""Estimates how long a request will wait for a model (no I/O here)."""

from __future__ import annotations

from dataclasses import dataclass

from modelium.lifecycle import ModelState
from modelium.models import Fleet, Model
from modelium.models.load_time import fetch_seconds, load_seconds
from modelium.policy.backoff import LONGEST_PAUSE_S
from modelium.policy.node_rules import silence, silent_node

MAX_NAMED_AHEAD = 3
"""How many of the models ahead in the queue a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitEstimate:
    """When a model will probably be ready, and why not sooner."""

    ready_in_s: float
    reason: str
    backing_off: bool = False
    """No load is attempted before ``ready_in_s`` have passed: waiting is pointless."""
    quarantined: bool = False
    """Nor afterwards, unless an operator or a change of the model says so."""


def estimate_wait(model: Model, fleet: Fleet) -> WaitEstimate:
    """Estimate how long a request for ``model`` will wait.

    Assumes that the loads of a node run one after the other, those ahead in the queue first: a
    Retry-After that is too long costs a client some seconds, one that is too short a second
    refusal.
    """
    silent = silent_node(model.deployment, fleet)
    if silent is not None:
        return WaitEstimate(
            ready_in_s=_seconds(model, fleet),
            reason=f"{silence(silent)}; the model is loaded elsewhere where it may be",
        )
    if model.state is ModelState.LOADING:
        elapsed, expected = max(0.0, fleet.at - model.state_since), _seconds(model, fleet)
        return WaitEstimate(
            ready_in_s=max(1.0, expected - elapsed),
            reason=f"loading for {elapsed:.0f} s of an expected {expected:.0f} s",
        )
    if model.quarantined:
        return WaitEstimate(
            ready_in_s=LONGEST_PAUSE_S, reason=model.reason, backing_off=True, quarantined=True
        )
    if model.state is ModelState.QUEUED:
        return _queued(model, fleet)
    if model.retry_at is not None and model.retry_at > fleet.at:
        return WaitEstimate(
            ready_in_s=model.retry_at - fleet.at,
            reason=f"the last load failed: {model.reason}",
            backing_off=True,
        )
    return WaitEstimate(ready_in_s=_seconds(model, fleet), reason=model.reason)


def _queued(model: Model, fleet: Fleet) -> WaitEstimate:
    ahead = [
        other
        for other in fleet.models
        if other.state is ModelState.QUEUED
        and other.traffic.pending
        and _since(other) < _since(model)
    ]
    ahead.sort(key=_since)
    loading = [other for other in fleet.models if other.state is ModelState.LOADING]
    parts = []
    if ahead:
        more = len(ahead) - MAX_NAMED_AHEAD
        names = ", ".join(other.name for other in ahead[:MAX_NAMED_AHEAD])
        parts.append(f"queued behind {names}{f' and {more} more' if more > 0 else ''}")
    parts.append(model.reason or "queued")
    before = sum(_seconds(other, fleet) for other in (*loading, *ahead))
    at_once = max(1, sum(node.placeable for node in fleet.nodes))
    seconds = _seconds(model, fleet) + before / at_once
    return WaitEstimate(ready_in_s=seconds, reason="; ".join(parts))


def _seconds(model: Model, fleet: Fleet) -> float:
    """Return the seconds of a load, with the transfer of the files where no node has them."""
    if model.deployment is not None:
        nodes: tuple[str, ...] = model.deployment.nodes
    else:
        nodes = tuple(node.name for node in fleet.nodes if node.placeable)
    transfer = min((fetch_seconds(model, node, fleet) for node in nodes), default=0.0)
    return load_seconds(model) + transfer


def _since(model: Model) -> float:
    return model.queued_at or model.state_since
