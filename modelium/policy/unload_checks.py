"""What is wrong with one unload by itself (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator

from modelium.lifecycle import ModelState
from modelium.models import Deployment, EvictionCause, Fleet, Model, Unload
from modelium.policy.action_checks import Fault, runtime_faults, switch_faults
from modelium.policy.eligibility import is_pinned, over_cap, ready_s, should_unload, too_young
from modelium.policy.node_rules import draining_node, silent_node, unload_node_faults
from modelium.policy.policy import Policy


def unload_faults(
    action: Unload, model: Model, fleet: Fleet, policy: Policy, *, by_operator: bool, now: float
) -> Iterator[Fault]:
    """Yield what forbids ``action``.

    The operator may unload a busy model and cut its residency short, but not unload a pinned one.
    A pin holds the model, not its files: a newer version may replace an older one.

    Args:
        action: the unload.
        model: the model that it unloads.
        fleet: the snapshot.
        policy: the operator's rules.
        by_operator: an operator asked for this model to be unloaded.
        now: seconds since the epoch.
    """
    yield from switch_faults(policy)
    yield from _state_faults(model, by_operator=by_operator)
    yield from unload_node_faults(action, model, fleet, policy)
    moved = action.cause is EvictionCause.DRAIN and draining_node(model.deployment, fleet)
    replaced = model.outdated or model.twin_of is not None
    may_move = moved and action.requeue and model.twin_of is None
    if is_pinned(model, policy) and not (by_operator and replaced) and not may_move:
        yield (
            "pinned",
            f"it is pinned; run `modelium pin {model.name} --off` first"
            if model.pinned
            else "it is in always_loaded; remove it there first"
            if model.twin_of is None
            else f"{model.twin_of} is being switched to or from it",
        )
    if model.deployment is not None:
        held = model.deployment
        if silent_node(held, fleet) is None:
            yield from runtime_faults(held.runtime, fleet, policy, node=held.node)
        if action.sleep:
            yield from _sleep_faults(model, held, fleet)
    elif action.sleep:
        yield ("sleep", f"it is {model.state} and not loaded; only a ready model can sleep")
    if not by_operator and not moved:
        yield from _stay_faults(model, fleet, policy, now=now)


def _state_faults(model: Model, *, by_operator: bool) -> Iterator[Fault]:
    loaded = model.state in (ModelState.READY, ModelState.SLEEPING)
    halted = model.state is ModelState.FAILED and model.deployment is not None
    if not (loaded or halted or (by_operator and model.state is ModelState.LOADING)):
        yield (
            "illegal-state",
            f"it is {model.state}; only a ready or sleeping model can be unloaded",
        )


def _sleep_faults(model: Model, held: Deployment, fleet: Fleet) -> Iterator[Fault]:
    status = fleet.runtime_on(held.runtime, held.node)
    if model.state is not ModelState.READY:
        yield ("sleep", f"it is {model.state}; only a ready model can sleep")
    if status is None or not status.can_sleep:
        yield ("sleep", f"{held.runtime} has no sleep mode here; unload it instead")


def _stay_faults(model: Model, fleet: Fleet, policy: Policy, *, now: float) -> Iterator[Fault]:
    """Yield what entitles the model to stay loaded."""
    traffic = model.traffic
    if traffic.in_flight or traffic.pending:
        yield (
            "in-flight",
            f"{traffic.in_flight} requests are in flight and {traffic.pending} are waiting; "
            "only an idle model can be unloaded",
        )
    if model.state is not ModelState.READY or _may_leave(model, fleet, policy, now=now):
        return
    if too_young(model, policy, now=now):
        yield (
            "too-young",
            f"became ready {ready_s(model, now):.0f} s ago; "
            f"min_residency_seconds is {policy.min_residency_s:g}",
        )
    if not policy.enable_model_swapping:
        yield (
            "swap-disabled",
            "enable_model_swapping is false, so it can only be unloaded for idling: "
            f"idle for {model.idle_s(now):.0f} s, auto_unload_after_seconds is "
            f"{policy.auto_unload_after_s:g}; {traffic.qps_last_hour:g} requests/s in the last "
            f"hour, min_qps_threshold is {policy.min_qps_threshold:g}",
        )


def _may_leave(model: Model, fleet: Fleet, policy: Policy, *, now: float) -> bool:
    """Whether it may be unloaded even if no other model needs its memory."""
    if should_unload(model, policy, now=now):
        return True
    devices = model.deployment.devices if model.deployment else ()
    known = fleet.devices_by_id
    return any(d in known and over_cap(known[d], policy) for d in devices)
