"""Builders of small fleets for tests of the planner and the policy."""

from __future__ import annotations

from typing import Any

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    Deployment,
    Device,
    Fleet,
    Footprint,
    LoadSettings,
    Model,
    ModelFormat,
    ModelProfile,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Task,
    Traffic,
)
from modelium.policy import Policy, RuntimeRules

NOW = 1_800_000_000.0


def estimate(profile: ModelProfile, *, tensor_parallel: int = 1, **settings: Any) -> Footprint:
    """Return the weights, plus KV cache for the context if the profile has its layout."""
    weights = profile.weight_bytes // tensor_parallel
    kv = 0
    if profile.kv_bytes_per_token:
        length = settings.get("max_model_len") or profile.context_length or 1024
        kv = profile.kv_bytes_per_token * length
    return Footprint(weights=weights, kv=kv, expected=weights + kv, reserve=weights + kv)


def profile(gib: float, **given: Any) -> ModelProfile:
    """Return a text generator of ``gib`` GiB that vLLM and Ray Serve support."""
    fields: dict[str, Any] = {
        "format": ModelFormat.TRANSFORMERS,
        "architecture": "LlamaForCausalLM",
        "task": Task.TEXT_GENERATION,
        "weight_bytes": int(gib * GIB),
        "context_length": 4096,
        "runtimes": (
            RuntimeSupport(runtime=RuntimeName.VLLM, supported=True),
            RuntimeSupport(runtime=RuntimeName.RAY_SERVE, supported=True),
        ),
    }
    return ModelProfile(**{**fields, **given})


def model(name: str, gib: float = 10, **given: Any) -> Model:
    """Return a model that is analyzed and was never loaded."""
    fields: dict[str, Any] = {
        "name": name,
        "path": f"/models/repository/{name}",
        "state": ModelState.ANALYZED,
        "state_since": NOW - 100,
        "registered_at": NOW - 100_000,
        "profile": profile(gib),
    }
    return Model(**{**fields, **given})


def loaded(name: str, *devices: str, gib: float = 10, idle_s: float = 600, **given: Any) -> Model:
    """Return a model that has long been ready on ``devices``, last requested ``idle_s`` ago."""
    fields: dict[str, Any] = {
        "state": ModelState.READY,
        "state_since": NOW - 50_000,
        "deployment": Deployment(
            model=name,
            version=1,
            runtime=RuntimeName.VLLM,
            devices=devices,
            settings=LoadSettings(tensor_parallel_size=len(devices)),
            started_at=NOW - 50_060,
            ready_at=NOW - 50_000,
            load_s=30,
        ),
        "traffic": Traffic(
            completed=100,
            first_request_at=NOW - 50_000,
            last_request_at=NOW - idle_s,
            rates=(0.0, 0.001, 0.001, 0.001),
        ),
    }
    return model(name, gib, **{**fields, **given})


def fleet(
    *models: Model, gpus: int = 2, gib: float = 80, foreign_gib: float = 0, **given: Any
) -> Fleet:
    """Return GPUs ``n/g0`` … of ``gib`` GiB each; loaded ``models`` are booked and resident."""
    bookings = []
    used = dict.fromkeys([f"n/g{i}" for i in range(gpus)], int(foreign_gib * GIB))
    for each in models:
        if each.deployment is None or each.state is ModelState.SLEEPING:
            continue
        devices = each.deployment.devices
        assert each.profile is not None
        share = each.profile.weight_bytes // len(devices)
        for device in devices:
            used[device] += share
            bookings.append(
                Booking(model=each.name, device=device, bytes=share, resident_bytes=share)
            )
    total = int(gib * GIB)
    fields: dict[str, Any] = {
        "at": NOW,
        "revision": 7,
        "models": models,
        "bookings": tuple(bookings),
        "devices": tuple(
            Device(
                node="n",
                uuid=f"g{i}",
                kind="gpu",
                index=i,
                name="H100",
                total_bytes=total,
                free_bytes=max(0, total - used[f"n/g{i}"]),
            )
            for i in range(gpus)
        ),
        "runtimes": tuple(
            RuntimeStatus(name=name, enabled=True, healthy=True)
            for name in (RuntimeName.VLLM, RuntimeName.RAY_SERVE)
        ),
    }
    return Fleet(**{**fields, **given})


def policy(**given: Any) -> Policy:
    """Return the default policy with vLLM and Ray Serve enabled."""
    fields: dict[str, Any] = {
        "runtimes": {
            RuntimeName.VLLM: RuntimeRules(),
            RuntimeName.RAY_SERVE: RuntimeRules(),
        }
    }
    return Policy(**{**fields, **given})
