"""Which models the operator's rules allow to load, unload or stay (no I/O here).

Planner and validator both call these predicates, so that the validator accepts what the rules
plan.
"""

from __future__ import annotations

from modelium.lifecycle import SETTLED, TRANSITIONS, ModelState
from modelium.models import Device, Model, ModelProfile
from modelium.policy.policy import Policy


def needed_approvals(profile: ModelProfile, policy: Policy) -> frozenset[str]:
    """Return the approvals that a model of ``profile`` needs before it may run."""
    needed = set()
    if profile.needs_remote_code and not policy.allow_remote_code:
        needed.add("remote-code")
    if profile.details.get("pickle") and not policy.allow_pickle:
        needed.add("pickle")
    return frozenset(needed)


def is_pinned(model: Model, policy: Policy) -> bool:
    """Whether no plan may unload ``model``: the operator pinned it, or it is always loaded.

    What is being removed is held no longer: the removal was refused or forced before.
    """
    if model.twin_of is not None:
        return True  # its unload is a part of the switch
    return model.removal is None and (model.pinned or model.name in policy.always_loaded)


def should_unload(model: Model, policy: Policy, *, now: float) -> bool:
    """Whether ``model`` idles, by the seed's rule: long idle, few requests lately, not pinned."""
    return (
        model.state in (ModelState.READY, ModelState.SLEEPING)
        and model.idle_s(now) > policy.auto_unload_after_s
        and model.traffic.qps_last_hour < policy.min_qps_threshold
        and not is_pinned(model, policy)
    )


def should_load(model: Model, policy: Policy) -> bool:
    """Whether more requests wait for ``model`` than the threshold (the seed's rule)."""
    return model.traffic.pending > policy.pending_requests_threshold


def may_queue(model: Model) -> bool:
    """Whether a plan may queue ``model``: it holds no memory, and is queued or may be.

    Only the monitor, when it finds that a loaded model was lost, queues one from another state.
    """
    return model.removal is None and (
        model.state is ModelState.QUEUED
        or (model.state in SETTLED and ModelState.QUEUED in TRANSITIONS[model.state])
    )


def ready_s(model: Model, now: float) -> float:
    """Seconds since ``model`` became ready, or since its last transition where it is not."""
    ready_at = model.deployment.ready_at if model.deployment else None
    return now - (model.state_since if ready_at is None else ready_at)


def too_young(model: Model, policy: Policy, *, now: float) -> bool:
    """Whether ``model`` is within its minimum residency, so that no other model displaces it."""
    return ready_s(model, now) < policy.min_residency_s


def over_cap(device: Device, policy: Policy) -> bool:
    """Whether the measured use of ``device`` exceeds the share that models may take."""
    used = device.total_bytes - device.free_bytes
    return device.healthy and used > device.total_bytes * policy.max_gpu_memory_utilization
