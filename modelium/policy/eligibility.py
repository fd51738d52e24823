"""Which models the operator's rules let come, go or stay: one predicate each (no I/O here).

The planner and the validator both ask here, so that what one proposes the other accepts.
"""

from __future__ import annotations

from modelium.lifecycle import SETTLED, TRANSITIONS, ModelState
from modelium.models import Device, Model, ModelProfile
from modelium.policy.policy import Policy


def needed_approvals(profile: ModelProfile, policy: Policy) -> frozenset[str]:
    """Return what an operator must have approved before a model of ``profile`` may run."""
    needed = set()
    if profile.needs_remote_code and not policy.allow_remote_code:
        needed.add("remote-code")
    if profile.details.get("pickle") and not policy.allow_pickle:
        needed.add("pickle")
    return frozenset(needed)


def is_pinned(model: Model, policy: Policy) -> bool:
    """Whether no plan may take ``model`` out: the operator pinned it, or it is always loaded."""
    return model.pinned or model.name in policy.always_loaded


def should_unload(model: Model, policy: Policy, *, now: float) -> bool:
    """Decide as the seed does: idle too long, few requests in the last hour, not pinned."""
    return (
        model.state in (ModelState.READY, ModelState.SLEEPING)
        and model.idle_s(now) > policy.auto_unload_after_s
        and model.traffic.qps_last_hour < policy.min_qps_threshold
        and not is_pinned(model, policy)
    )


def should_load(model: Model, policy: Policy) -> bool:
    """Decide as the seed does, as far as the model goes: more requests wait than the threshold."""
    return model.traffic.pending > policy.pending_requests_threshold


def may_queue(model: Model) -> bool:
    """Whether a plan may queue ``model``: it holds nothing, and waits or may come to wait.

    A model that runs is queued only by whoever finds that it was lost.
    """
    return model.state is ModelState.QUEUED or (
        model.state in SETTLED and ModelState.QUEUED in TRANSITIONS[model.state]
    )


def too_young(model: Model, policy: Policy, *, now: float) -> bool:
    """Whether ``model`` became ready too short ago to make room for another one."""
    ready_at = model.deployment.ready_at if model.deployment else None
    return now - (model.state_since if ready_at is None else ready_at) < policy.min_residency_s


def over_cap(device: Device, policy: Policy) -> bool:
    """Whether the measured use of ``device`` is over the share that models may take."""
    used = device.total_bytes - device.free_bytes
    return device.healthy and used > device.total_bytes * policy.max_gpu_memory_utilization
