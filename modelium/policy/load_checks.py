"""What is wrong with one load by itself: its profile, settings and devices (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator

from modelium.lifecycle import ModelState
from modelium.models import Fleet, Load, Model
from modelium.models.runtimes import RUNTIMES
from modelium.policy.eligibility import needed_approvals
from modelium.policy.policy import Policy

Fault = tuple[str, str]
"""The rule that is broken, and what is wrong and allowed."""

DTYPES = frozenset({"auto", "half", "float16", "bfloat16", "float", "float32"})
KV_DTYPES = frozenset({"auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "q8_0", "f16"})
MAX_BATCH = 65536
"""More sequences or requests at once than any engine takes."""


def profile_faults(action: Load, model: Model, policy: Policy) -> Iterator[Fault]:
    """Yield what the model's own files forbid, and the approvals that they need."""
    profile = model.profile
    if profile is None:
        yield ("not-analyzed", "it has no profile yet; analyze it first")
        return
    support = profile.support(action.runtime)
    if not support.supported:
        able = ", ".join(s.runtime for s in profile.runtimes if s.supported)
        yield (
            "unsupported",
            f"{action.runtime} cannot serve it ({support.reason}); able: {able or 'none'}",
        )
    for approval in sorted(needed_approvals(profile, policy) - model.approvals):
        yield (
            "needs-approval",
            f"it needs the approval `{approval}`: `modelium approve {model.name}`",
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
    length = action.settings.max_model_len
    if length and profile.context_length and length > profile.context_length:
        yield (
            "setting",
            f"max_model_len {length} is over the model's context of {profile.context_length}",
        )
    quantization = action.settings.quantization
    if quantization is not None and quantization != profile.quantization:
        yield (
            "setting",
            f"quantization {quantization!r} is not the model's own ({profile.quantization})",
        )


def setting_faults(action: Load, policy: Policy) -> Iterator[Fault]:
    """Yield settings that no engine knows or the operator does not allow."""
    settings = action.settings
    for name, value, allowed in (
        ("dtype", settings.dtype, DTYPES),
        ("kv_dtype", settings.kv_dtype, KV_DTYPES),
    ):
        if value is not None and value not in allowed:
            yield (
                "setting",
                f"{name} {value!r} is not known; allowed: {', '.join(sorted(allowed))}",
            )
    if settings.max_num_seqs and settings.max_num_seqs > MAX_BATCH:
        yield ("setting", f"max_num_seqs {settings.max_num_seqs} is over {MAX_BATCH}")
    smallest = min(action.reserve.values(), default=0)
    if settings.kv_cache_bytes and settings.kv_cache_bytes > smallest:
        yield (
            "setting",
            f"kv_cache_bytes {settings.kv_cache_bytes} is over the {smallest} bytes reserved",
        )
    rules = policy.rules(action.runtime)
    for key, given in settings.extra.items():
        if key not in rules.allowed_extra and rules.default_settings.get(key) != given:
            yield (
                "setting",
                f"{key!r} is not on {action.runtime}'s allow-list: "
                f"{', '.join(sorted(rules.allowed_extra)) or 'nothing is'}",
            )


def device_faults(action: Load, model: Model, fleet: Fleet) -> Iterator[Fault]:
    """Yield devices that are not there, are not well, or do not go together."""
    chosen = action.devices
    found = [fleet.devices_by_id[d] for d in chosen if d in fleet.devices_by_id]
    for missing in sorted(set(chosen) - {d.id for d in found}):
        known = ", ".join(sorted(fleet.devices_by_id)) or "none"
        yield ("unknown-device", f"there is no device {missing}; known: {known}")
    for device in found:
        if not device.healthy:
            yield ("device-unhealthy", f"{device.id} is not healthy: {device.detail}")
    degree = action.settings.tensor_parallel_size
    if len(set(chosen)) != len(chosen) or len(chosen) != degree:
        yield (
            "devices",
            f"tensor_parallel_size {degree} needs as many different devices, not "
            f"{len(chosen)}: {', '.join(chosen) or 'none'}",
        )
    if set(action.reserve) != set(chosen) or any(b <= 0 for b in action.reserve.values()):
        yield ("reserve", "each of its devices, and no other, needs a reservation in bytes")
    if len({(d.node, d.kind, d.name, d.total_bytes) for d in found}) > 1:
        yield ("devices", "tensor parallelism needs devices of one node that are alike")
    held = model.deployment
    if (
        model.state is ModelState.SLEEPING
        and held is not None
        and (held.runtime is not action.runtime or held.devices != chosen)
    ):
        yield (
            "asleep-elsewhere",
            f"it sleeps in {held.runtime} on {', '.join(held.devices)} and can only wake there",
        )


def least_bytes(action: Load, model: Model) -> int:
    """Return bytes per device below which the weights cannot be there, as far as that is known."""
    profile = model.profile
    if profile is None or not profile.exact:
        return 0
    least = profile.weight_bytes // action.settings.tensor_parallel_size
    if profile.dtype == "float32" and action.settings.dtype in ("half", "float16", "bfloat16"):
        least //= 2
    seen = [m.per_device_bytes for m in model.measured if m.runtime is action.runtime]
    return min([least, *seen])
