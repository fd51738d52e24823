"""The memory that a model needs on each device: pure arithmetic, fast enough for a planner.

docs/analysis.md explains the formulas and their sources; constants are in ``engines.toml``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from modelium.analysis.memory.engine_constants import VllmConstants, overhead, vllm_constants
from modelium.analysis.memory.kv_cache import DEFAULT_CONTEXT, kv_bytes
from modelium.analysis.memory.vllm import SOURCES, vllm_footprint
from modelium.analysis.memory.vllm_pool import CPU_BLOCKS, PoolShape, pool_bytes
from modelium.models import (
    Footprint,
    LoadSettings,
    MeasuredLoad,
    ModelFormat,
    ModelProfile,
    RuntimeName,
)
from modelium.models.runtimes import RUNTIMES

MEASURED_MARGIN = 1.02
CPU_POOL = PoolShape(in_flight_tokens=2048, blocks=CPU_BLOCKS)
"""vLLM's CPU builds schedule one batch of 2048 tokens at a time."""
_MEASURED_SOURCES = dict.fromkeys(SOURCES, "measured at the last load of this model")


def settings_digest(settings: LoadSettings) -> str:
    """Return the key of a measured load: a digest of the settings that its memory depends on."""
    return _digest(
        settings.dtype, settings.kv_dtype, settings.tensor_parallel_size, settings.max_model_len,
        settings.max_num_seqs, batched_tokens=settings.batched_tokens,
    )  # fmt: skip


def _digest(*values: object, batched_tokens: int | None) -> str:
    if batched_tokens is not None:  # keys that were stored without it stay valid
        values = (*values, {"batched_tokens": batched_tokens})
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def estimate(
    profile: ModelProfile,
    *,
    runtime: RuntimeName,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    engine_version: str | None = None,
    device_kind: str | None = None,
    measured: Sequence[MeasuredLoad] = (),
    quantization: str | None = None,
    device_bytes: int | None = None,
    batched_tokens: int | None = None,
) -> Footprint:
    """Return the bytes needed on each of ``tensor_parallel`` devices.

    ``kv`` is enough for one sequence of ``max_model_len`` or ``max_num_seqs`` typical ones
    (`TYPICAL_TOKENS`), whichever is more; with less, the engine works but preempts sequences.
    ``device_kind`` is ``cpu``, ``gpu`` or the product name of a GPU, ``device_bytes`` its memory. A
    matching load in ``measured`` replaces the formulas. ``quantization``: the engine converts the
    weights to it while loading. ``batched_tokens``: tokens per batch, where the operator set them.
    """
    on_cpu = device_kind == "cpu"
    if runtime is RuntimeName.VLLM and not on_cpu:
        found = vllm_footprint(
            profile,
            _with_batches(
                vllm_constants(engine_version, device_kind, device_bytes), batched_tokens
            ),
            tensor_parallel=tensor_parallel,
            dtype=dtype,
            kv_dtype=kv_dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            quantization=quantization,
        )
    else:
        found = _simple(
            profile,
            runtime,
            "cpu" if on_cpu else "gpu",
            dtype,
            kv_dtype,
            max_model_len,
            max_num_seqs,
        )
    digest = _digest(
        dtype, kv_dtype, tensor_parallel, max_model_len, max_num_seqs, batched_tokens=batched_tokens
    )
    loads = [
        load
        for load in measured
        if load.runtime is runtime
        and load.settings_digest == digest
        and _alike(load.device_kind, device_kind)
    ]
    if not loads:
        return found
    return _from_measured(found, max(loads, key=lambda load: load.at).per_device_bytes)


def _with_batches(constants: VllmConstants, batched_tokens: int | None) -> VllmConstants:
    if batched_tokens is None:
        return constants
    return constants.model_copy(update={"batched_tokens": batched_tokens})


def _alike(measured_on: str, wanted: str | None) -> bool:
    """Return whether the devices match: ``gpu`` matches every product, ``None`` every device."""
    if wanted == "gpu":
        return measured_on != "cpu"
    return wanted is None or measured_on == wanted


def _from_measured(found: Footprint, total: int) -> Footprint:
    weights = min(found.weights, total)
    kv_bytes = min(found.kv, total - weights)
    return Footprint(
        weights=weights,
        kv=kv_bytes,
        non_torch=total - weights - kv_bytes,
        expected=total,
        reserve=int(total * MEASURED_MARGIN),
        kv_least=found.kv_least,
        sources=_MEASURED_SOURCES,
    )


def _simple(
    profile: ModelProfile,
    runtime: RuntimeName,
    kind: str,
    dtype: str | None,
    kv_dtype: str | None,
    max_model_len: int | None,
    max_num_seqs: int | None,
) -> Footprint:
    """Estimate engines that load the file unchanged: weights × allocator overhead + fixed base."""
    declared = profile.details.get("memory_bytes") if profile.format is ModelFormat.CUSTOM else None
    if declared is not None:
        return Footprint(
            weights=declared,
            expected=declared,
            reserve=declared,
            sources={"weights": "declared by the drop"},
        )
    constants = overhead(runtime.value, kind)
    fixed = constants.fixed
    if constants.torch_fixed is not None and profile.format is not ModelFormat.ONNX:
        fixed = constants.torch_fixed
    weights = profile.weight_bytes
    activation = int(weights * (constants.weights_factor - 1))
    least = 0
    kv_cache = RUNTIMES[runtime].kv_cache
    if kv_cache == "pool":
        pool, least = pool_bytes(
            profile, CPU_POOL, dtype=dtype, kv_dtype=kv_dtype, max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
        )  # fmt: skip
    else:
        length = max_model_len or min(profile.context_length or DEFAULT_CONTEXT, 4096)
        pool = kv_bytes(profile, length, dtype=dtype, kv_dtype=kv_dtype)
        if kv_cache == "per-sequence":
            pool *= max_num_seqs or 1
    expected = weights + activation + fixed + pool
    return Footprint(
        weights=weights,
        kv=pool,
        activation=activation,
        non_torch=fixed,
        expected=expected,
        reserve=int(expected * 1.1) + 64 * 1024**2,
        kv_least=least,
        sources={
            "weights": "file headers",
            "kv": SOURCES["kv"],
            "activation": f"engines.toml: {runtime} on a {kind}, share of the weights",
            "non_torch": f"engines.toml: {runtime} on a {kind}, process",
        },
    )
