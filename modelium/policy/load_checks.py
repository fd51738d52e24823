"""What is wrong with one load by itself: state, profile, settings, devices (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelium.lifecycle import TRANSITIONS, ModelState
from modelium.models import Device, Fleet, Load, Model, RuntimeName, Trigger
from modelium.models.devices import SIZE_TOLERANCE
from modelium.models.runtimes import RUNTIMES
from modelium.policy.action_checks import (
    Fault,
    gib,
    priority_faults,
    runtime_faults,
    switch_faults,
)
from modelium.policy.eligibility import is_pinned, needed_approvals, should_load
from modelium.policy.node_rules import load_node_faults, spans_faults
from modelium.policy.policy import Policy

DTYPES = frozenset({"auto", "half", "float16", "bfloat16", "float", "float32"})
KV_DTYPES = frozenset({"auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "q8_0", "f16"})
KV_SHARE_SLACK = 1.05
"""Free memory changes a little between planning and validation."""
NAMED = 16
"""Devices that a message names."""
UNEVEN = 2
"""The smallest part of a model over several nodes has at least half of an even share."""
MAX_BATCH = 65536
"""More concurrent sequences or requests than any engine takes."""


def load_faults(
    action: Load, model: Model, fleet: Fleet, policy: Policy, *, trigger: Trigger, now: float
) -> Iterator[Fault]:
    """Yield what forbids ``action``, apart from memory. ``now``: seconds since the epoch."""
    yield from switch_faults(policy)
    yield from priority_faults(action, model)
    yield from _state_faults(model, policy, trigger=trigger, now=now)
    nodes = _nodes(action, fleet)
    for node in nodes or (None,):
        yield from runtime_faults(action.runtime, fleet, policy, node=node)
        yield from _health_faults(action.runtime, fleet, node)
    yield from load_node_faults(model, nodes, fleet, policy)
    if action.settings.pipeline_parallel_size > 1:
        yield from spans_faults(action.runtime, nodes, fleet)
    yield from _profile_faults(action, model, policy)
    yield from _setting_faults(action, policy)
    yield from _device_faults(action, model, fleet)
    yield from _switch_faults(model, fleet)


def _nodes(action: Load, fleet: Fleet) -> tuple[str, ...]:
    """Return the nodes of those of its devices that exist, each once."""
    known = fleet.devices_by_id
    return tuple(dict.fromkeys(known[d].node for d in action.devices if d in known))


def _health_faults(runtime: RuntimeName, fleet: Fleet, node: str | None) -> Iterator[Fault]:
    """Yield a runtime that does not answer on ``node``; ``None``: anywhere."""
    if node is None:
        status = fleet.runtimes_by_name.get(runtime)
    else:
        status = fleet.runtime_on(runtime, node)
    if status is not None and status.enabled and not status.healthy:
        where = f" on node {node}" if node is not None and fleet.nodes else ""
        yield (
            "runtime-unavailable",
            f"{runtime} is not healthy{where}: {status.detail or 'it gave no detail'}",
        )


def _state_faults(model: Model, policy: Policy, *, trigger: Trigger, now: float) -> Iterator[Fault]:
    """Yield faults of lifecycle, back-off and cooldown; an operator's load skips the last two."""
    if model.removal is not None:
        yield ("being-removed", f"it is being removed; {model.removal.by} asked for it")
    if ModelState.LOADING not in TRANSITIONS[model.state]:
        yield ("illegal-state", f"it is {model.state}, and cannot be loaded from that state")
    if trigger is Trigger.OPERATOR:
        return
    if model.quarantined:
        yield ("quarantined", model.reason)
    if model.retry_at is not None and model.retry_at > now:
        yield (
            "backing-off",
            f"its load failed {model.failures} times; the next attempt is due in "
            f"{model.retry_at - now:.0f} s, and an operator may load it at once",
        )
    if model.evicted_at is None:
        return
    if trigger is Trigger.INGEST and model.state is ModelState.UNLOADED:
        yield (
            "evicted",
            "it was evicted; ingest does not load it again, a request or an operator does",
        )
    if (
        trigger in (Trigger.SWEEP, Trigger.UPKEEP, Trigger.REVIEW)
        and now - model.evicted_at < policy.reload_cooldown_s
        and not is_pinned(model, policy)
        and not should_load(model, policy)
    ):
        yield (
            "cooldown",
            f"was evicted {now - model.evicted_at:.0f} s ago; reload_cooldown_seconds is "
            f"{policy.reload_cooldown_s:g}, except for a request or an operator",
        )


def _switch_faults(model: Model, fleet: Fleet) -> Iterator[Fault]:
    """Yield a load of what its twin holds, or may be about to hold: one version, one process."""
    twin = fleet.twins.get(model.name)
    if twin is not None and twin.deployment is not None:
        yield ("switching", f"version {twin.version} of it is {twin.state} beside it")


def _profile_faults(action: Load, model: Model, policy: Policy) -> Iterator[Fault]:
    """Yield what the model's own files rule out, and the approvals that they need."""
    profile = model.profile
    if profile is None:
        yield ("not-analyzed", "it has no profile yet; it can be loaded once it is analyzed")
        return
    support = profile.support(action.runtime)
    if not support.supported:
        able = ", ".join(s.runtime for s in profile.runtimes if s.supported)
        yield (
            "unsupported",
            f"{action.runtime} cannot serve it ({support.reason}); "
            f"runtimes that can: {able or 'none'}",
        )
    for approval in sorted(needed_approvals(profile, policy) - model.approvals):
        yield (
            "needs-approval",
            f"it needs the approval `{approval}`; run `modelium approve {model.name}`",
        )
    degree = action.settings.tensor_parallel_size
    splits = RUNTIMES[action.runtime].tensor_parallel
    allowed = profile.tensor_parallel_degrees if splits else (1,)
    if degree not in allowed:
        yield (
            "tensor-parallel",
            f"tensor_parallel_size {degree} is not possible with {action.runtime}; "
            f"allowed: {', '.join(map(str, allowed))}",
        )
    parts = action.settings.pipeline_parallel_size
    if parts > 1 and not splits:
        yield ("spans-nodes", f"{action.runtime} splits no model over several nodes")
    length = action.settings.max_model_len
    if length and profile.context_length and length > profile.context_length:
        yield (
            "setting",
            f"max_model_len {length} exceeds its context length of {profile.context_length}",
        )
    quantization = action.settings.quantization
    if quantization is not None and quantization != profile.quantization:
        yield (
            "setting",
            f"quantization {quantization!r} is not that of its weights "
            f"({profile.quantization or 'none'})",
        )


def _setting_faults(action: Load, policy: Policy) -> Iterator[Fault]:
    """Yield settings that no engine has or that the operator does not allow."""
    settings = action.settings
    for name, value, allowed in (
        ("dtype", settings.dtype, DTYPES),
        ("kv_dtype", settings.kv_dtype, KV_DTYPES),
    ):
        if value is not None and value not in allowed:
            yield (
                "setting",
                f"{name} {value!r} does not exist; allowed: {', '.join(sorted(allowed))}",
            )
    if settings.max_num_seqs and settings.max_num_seqs > MAX_BATCH:
        yield ("setting", f"max_num_seqs {settings.max_num_seqs} exceeds {MAX_BATCH}")
    smallest = min(action.reserve.values(), default=0)
    if settings.kv_cache_bytes and settings.kv_cache_bytes > smallest:
        yield (
            "setting",
            f"kv_cache_bytes is {gib(settings.kv_cache_bytes)}, more than the "
            f"{gib(smallest)} reserved",
        )
    rules = policy.rules(action.runtime)
    _known, own = policy.settings(action.runtime, action.model)
    for key, given in settings.extra.items():
        if key not in rules.allowed_extra and own.get(key) != given:
            yield (
                "setting",
                f"{key!r} is not in {action.runtime}.allowed_extra; "
                f"allowed: {', '.join(sorted(rules.allowed_extra)) or 'nothing'}",
            )


def _device_faults(action: Load, model: Model, fleet: Fleet) -> Iterator[Fault]:
    """Yield devices that do not exist, are not healthy, or cannot be used together."""
    chosen = action.devices
    found = [fleet.devices_by_id[d] for d in chosen if d in fleet.devices_by_id]
    for missing in sorted(set(chosen) - {d.id for d in found}):
        known = named_devices(sorted(fleet.devices_by_id)) or "none"
        yield ("unknown-device", f"device {missing} does not exist; devices: {known}")
    for device in found:
        if not device.healthy:
            yield ("device-unhealthy", f"device {device.id} is not healthy: {device.detail}")
    degree, parts = action.settings.tensor_parallel_size, action.settings.pipeline_parallel_size
    if len(set(chosen)) != len(chosen) or len(chosen) != degree * parts:
        over = f" × pipeline_parallel_size {parts}" if parts > 1 else ""
        yield (
            "devices",
            f"tensor_parallel_size {degree}{over} needs {degree * parts} different devices; "
            f"given: {', '.join(chosen) or 'none'}",
        )
    elif parts > 1 and not _in_parts(found, degree):
        yield ("devices", f"each {degree} devices of its {parts} parts have to be on one own node")
    if set(action.reserve) != set(chosen) or any(b <= 0 for b in action.reserve.values()):
        yield ("reserve", "each of its devices, and no other, needs a reservation above 0 bytes")
    for device in found:
        status = fleet.runtime_on(action.runtime, device.node)
        if status is not None and device.kind not in status.device_kinds:
            yield ("device-kind", f"{action.runtime} here cannot use device {device.id}")
    if found and not _alike(found, split=parts > 1):
        where = "" if parts > 1 else " on one node"
        yield (
            "devices",
            f"tensor parallelism needs devices of one name and size{where}, not MIG instances",
        )
    held = model.deployment
    if (
        model.state is ModelState.SLEEPING
        and held is not None
        and (held.runtime is not action.runtime or held.devices != chosen)
    ):
        yield (
            "asleep-elsewhere",
            f"it sleeps in {held.runtime} on {', '.join(held.devices)}, and can only wake there",
        )


def kv_share_faults(action: Load, device: str, room: int, policy: Policy) -> Iterator[Fault]:
    """Yield a KV pool on ``device`` that takes too much of its ``room`` (bytes) before the load.

    A pool that the operator set stands.
    """
    extra = action.settings.extra_kv_bytes
    if "kv_cache_bytes" in policy.settings(action.runtime, action.model)[0]:
        return
    idle = max(0, room - action.reserve[device] + extra)
    if extra > KV_SHARE_SLACK * policy.kv_cache_share * idle:
        yield (
            "kv-share",
            f"adds {gib(extra)} of idle memory to its KV cache on {device}; kv_cache_share "
            f"{policy.kv_cache_share:g} allows {gib(policy.kv_cache_share * idle)}",
        )


def named_devices(devices: Sequence[str]) -> str:
    """Return the names of ``devices`` for a message; of many, the first ones."""
    more = len(devices) - NAMED
    return ", ".join(devices[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _in_parts(devices: Sequence[Device], degree: int) -> bool:
    """Whether each ``degree`` of ``devices``, in order, are on a node of their own."""
    nodes = [device.node for device in devices]
    parts = [set(nodes[i : i + degree]) for i in range(0, len(nodes), degree)]
    return len(parts) == len(set(nodes)) and all(len(part) == 1 for part in parts)


def _alike(devices: Sequence[Device], *, split: bool = False) -> bool:
    """Whether one model can be split over ``devices``; ``split``: over several nodes."""
    if len(devices) == 1:
        return True
    sizes = [device.total_bytes for device in devices]
    return (
        len({("" if split else device.node, device.kind, device.name) for device in devices}) == 1
        and all(device.mig is None for device in devices)
        and max(sizes) <= min(sizes) * (1 + SIZE_TOLERANCE)
    )


def least_bytes(action: Load, model: Model) -> int:
    """Return a lower bound of the bytes per device that the weights take; 0 where unknown."""
    profile = model.profile
    if profile is None or not profile.exact:
        return 0
    least = profile.weight_bytes // action.settings.tensor_parallel_size
    parts = action.settings.pipeline_parallel_size
    if parts > 1:
        least //= UNEVEN * parts
    if profile.dtype == "float32" and action.settings.dtype in ("half", "float16", "bfloat16"):
        least //= 2
    seen = [m.per_device_bytes for m in model.measured if m.runtime is action.runtime]
    return min([least, *seen])
