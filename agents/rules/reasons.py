"""Why a model is left alone, rejected or queued, in words for the operator (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from agents.rules.device_groups import device_groups
from agents.rules.device_memory import DeviceMemory
from agents.rules.placement import Placement
from modelium.lifecycle import TRANSITIONS, ModelState
from modelium.models import GIB, Fleet, Model, ModelProfile, RuntimeStatus, Trigger
from modelium.policy import Policy
from modelium.policy.eligibility import needed_approvals

S = ModelState
PRESENT = frozenset({S.LOADING, S.READY})
DETAIL = 300
"""Characters of a runtime's own words in a reason."""
STARTING = " is starting"
"""In the reason of a model that waits for a runtime's start."""

DISABLED = "orchestration.enabled is off: Modelium observes and takes no action"


def left_alone(model: Model, policy: Policy, *, trigger: Trigger, now: float) -> str:
    """Return why a question about ``model`` changes nothing; empty where it should be loaded."""
    if not policy.enabled:
        return DISABLED
    if model.removal is not None:
        return f"being removed; {model.removal.by} asked for it"
    if model.state in PRESENT:
        where = ", ".join(model.deployment.devices) if model.deployment else "a device"
        return f"already {model.state} on {where}"
    if S.LOADING not in TRANSITIONS[model.state]:
        return f"{model.state}; it is decided on again afterwards"
    if trigger is Trigger.OPERATOR:
        return ""
    if model.quarantined:
        return model.reason
    if model.retry_at is not None and model.retry_at > now:
        return (
            f"{model.failures} loads failed; the next attempt is due in "
            f"{model.retry_at - now:.0f} s, or when an operator loads it"
        )
    if trigger is Trigger.DEMAND:
        waiting = max(1, model.traffic.pending)
        if waiting <= policy.pending_requests_threshold:
            return (
                f"{waiting} requests wait; it is loaded when more than "
                f"{policy.pending_requests_threshold} do (pending_requests_threshold)"
            )
    elif trigger is Trigger.INGEST and model.state is S.UNLOADED and model.evicted_at:
        return (
            f"evicted {max(0.0, now - model.evicted_at):.0f} s ago; a request or an operator "
            "loads it again, a change of its folder does not"
        )
    return ""


def not_runnable(model: Model, profile: ModelProfile, policy: Policy) -> str:
    """Return why ``model`` may not run on any runtime; empty where it may."""
    missing = needed_approvals(profile, policy) - model.approvals
    if missing:
        return (
            f"needs an operator's approval for {', '.join(sorted(missing))}: "
            f"run `modelium approve {model.name}`"
        )
    if any(s.supported and policy.rules(s.runtime).enabled for s in profile.runtimes):
        return ""
    each = "; ".join(
        f"{s.runtime}: {'not enabled' if s.supported else s.reason}" for s in profile.runtimes
    )
    return f"no enabled runtime can serve it ({each or 'no runtime supports its format'})"


def too_large(model: Model, fleet: Fleet, policy: Policy) -> str:
    """Return why ``model``, which fits no empty device, never will; empty where it might.

    It might where a device or a runtime that would take it is missing now.
    """
    if any(not node.placeable for node in fleet.nodes):
        return ""
    groups = device_groups(fleet.devices)
    if not groups or any(not d.healthy for d in fleet.devices):
        return ""
    if not any(
        s.supported and s.runtime in fleet.runtimes_by_name
        for s in (model.profile.runtimes if model.profile else ())
    ):
        return ""
    cap = policy.max_gpu_memory_utilization
    largest = max(g.total_bytes for g in groups) * cap
    return (
        "too large, even alone and with the smallest settings: the largest device offers "
        f"{largest / GIB:.1f} GiB ({cap:.0%} of its memory, max_gpu_memory_utilization)"
    )


def no_room(model: Model, fleet: Fleet, memory: DeviceMemory) -> str:
    """Return what prevents ``model`` from being loaded now, so that an operator can change it."""
    if not any(d.healthy for d in fleet.devices):
        return "no device is healthy; run `modelium doctor`"
    silent = [
        _silent(status)
        for status in fleet.runtimes
        if status.enabled
        and not status.healthy
        and model.profile is not None
        and model.profile.support(status.name).supported
    ]
    if silent:
        return f"waits for its runtime: {'; '.join(silent)}"
    loaded = memory.why_held(model)
    held = ", ".join(f"{count} {why}" for why, count in sorted(loaded.items()))
    return f"no device has room now; models in memory: {held or 'none'}"


def _silent(status: RuntimeStatus) -> str:
    detail = status.detail
    if len(detail) > DETAIL:
        detail = f"{detail[:DETAIL]}…"
    if status.starting:
        return f"{status.name}{STARTING}" + (f" ({detail})" if detail else "")
    return f"{status.name} does not answer ({detail or 'no detail'})"


def placed(place: Placement, why: str, *, avoided: Sequence[str], busy: str) -> str:
    """Return how a model is loaded: ``why`` first, then where, and what it costs."""
    option = place.option
    parts = [why] if why else []
    parts.append(
        f"{option.runtime} on {', '.join(place.devices)}, {option.reserve / GIB:.2f} GiB "
        + ("per device" if len(place.devices) > 1 else "reserved")
    )
    if busy:
        parts.append(f"rather than on {busy}")
    parts += avoided
    if place.evicts:
        parts.append(f"evicts {', '.join(place.evicts)}")
    if option.chosen:
        parts.append(option.chosen)
    if option.shortfall:
        parts.append(f"with {option.shortfall}")
    return "; ".join(parts)
