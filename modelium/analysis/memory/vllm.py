"""Memory of a vLLM instance on each GPU, by part: pure arithmetic.

The formulas are explained in docs/analysis.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelium.analysis.architecture.quantization import online
from modelium.analysis.memory.engine_constants import VllmConstants, allowance, margin
from modelium.analysis.memory.kv_cache import DEFAULT_CONTEXT, unit_bytes
from modelium.analysis.memory.vllm_pool import PoolShape, pool_bytes
from modelium.models import Footprint, ModelProfile

_PLAIN = ("F32", "F16", "BF16", "F64")
_STORED_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
SOURCES = {
    "weights": "safetensors headers, rotary tables included",
    "kv": "2 × layers × KV heads × head dimension × bytes; latent, windowed layers separately",
    "activation": "engine's profile run: sampler, forward pass, expert and vision workspaces",
    "graphs": "engines.toml: CUDA graphs by layers and width",
    "non_torch": "engines.toml: CUDA context, NCCL, allowance for unmodelled memory",
}
_CONFIG_SOURCES = {**SOURCES, "weights": "configuration, rotary tables included"}


def _memory(profile: ModelProfile) -> Mapping[str, Any]:
    found: Mapping[str, Any] = profile.details.get("memory", {})
    return found


def weight_bytes(
    profile: ModelProfile, *, tensor_parallel: int, dtype: str | None, quantization: str | None
) -> int:
    """Return the bytes of weights and constant tables on each device of a vLLM instance."""
    memory = _memory(profile)
    stored = _STORED_BYTES[_short(profile.dtype)]
    unit = unit_bytes(dtype)
    scale = unit / stored
    # Quantized matrices and their scales keep their dtype; only the others are converted.
    names = (_short(profile.dtype),) if profile.quantization else _PLAIN
    plain = sum(profile.weight_bytes_by_dtype.get(name, 0) for name in names)
    total = profile.weight_bytes + int(plain * (scale - 1))
    converted = online(quantization or dtype)
    if converted is not None and profile.quantization is None:
        linear = int(memory.get("plain_linear", 0) * scale)
        elements = linear // unit
        scales = int(memory.get("plain_linear_rows", 0))
        if converted.group:
            scales = elements // converted.group
        kept = elements * converted.bits // 8 + scales * converted.scale_bits // 8
        total -= max(0, linear - kept)
    replicated = int(memory.get("replicated", 0) * scale)
    absorbed = int(memory.get("absorbed", 0))
    per_device = replicated + (total - replicated + absorbed) / tensor_parallel
    heads = int(memory.get("kv_heads", 0))
    if heads and not (profile.kv and profile.kv.latent_dim):
        # Each device has the projections of at least one KV head.
        share = max(0.0, 1 / heads - 1 / tensor_parallel)
        per_device += int(memory.get("key_value", 0) * scale) * share
    return int(per_device) + int(memory.get("rope", 0)) * unit


def _short(dtype: str | None) -> str:
    return {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}.get(
        str(dtype), "BF16"
    )


def vllm_footprint(
    profile: ModelProfile,
    constants: VllmConstants,
    *,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    quantization: str | None = None,
) -> Footprint:
    """Return what `estimate` returns for vLLM on GPUs, with explicit constants."""
    weights = weight_bytes(
        profile, tensor_parallel=tensor_parallel, dtype=dtype, quantization=quantization
    )
    pool, least = pool_bytes(
        profile, pool_shape(constants, tensor_parallel), dtype=dtype, kv_dtype=kv_dtype,
        max_model_len=max_model_len, max_num_seqs=max_num_seqs,
    )  # fmt: skip
    unit = unit_bytes(dtype)
    length = max_model_len or profile.context_length or DEFAULT_CONTEXT
    activation = activation_bytes(profile, constants, tensor_parallel, unit, max_num_seqs)
    activation += _latent_workspace(profile, length, unit)
    graphs = graph_bytes(profile, constants, tensor_parallel)
    one, two, more = constants.non_torch
    non_torch = one if tensor_parallel == 1 else two + more * (tensor_parallel - 2)
    non_torch += constants.context + int((weights + activation) * allowance())
    engine = weights + activation + graphs + non_torch
    bounds = margin()
    return Footprint(
        weights=weights,
        kv=pool,
        activation=activation,
        graphs=graphs,
        non_torch=non_torch,
        expected=engine + pool,
        reserve=int(engine * (1 + bounds.relative)) + bounds.absolute + pool,
        kv_least=least,
        sources=SOURCES if profile.exact else _CONFIG_SOURCES,
    )


def pool_shape(constants: VllmConstants, tensor_parallel: int) -> PoolShape:
    """Return what the KV pool of an engine on GPUs depends on."""
    return PoolShape(
        tensor_parallel=tensor_parallel,
        in_flight_tokens=constants.in_flight_batches * constants.batched_tokens,
    )


def activation_bytes(
    profile: ModelProfile,
    constants: VllmConstants,
    tensor_parallel: int,
    unit: int,
    max_num_seqs: int | None,
) -> int:
    """Return the peak of the engine's profile run above the weights, on each device."""
    memory = _memory(profile)
    tokens = constants.batched_tokens
    hidden = profile.hidden_size or 0
    wide = (profile.intermediate_size or 4 * hidden) // tensor_parallel
    forward = int(tokens * unit * (constants.forward_hidden * hidden + 3 * wide))
    extra = 0
    top_k = int(memory.get("top_k", 0))
    if constants.expert_workspace:
        # Two buffers for all routed copies of the batch (vLLM's fused_moe workspaces).
        inner = int(memory.get("expert_intermediate", 0)) // tensor_parallel
        extra += tokens * top_k * unit * (max(inner, hidden) + max(2 * inner, hidden))
    pixels = int(memory.get("pixels_per_token", 0))
    if pixels:
        # The encoder's outputs and dummy images remain allocated while the text model runs.
        extra += tokens * 2 * (hidden + pixels)
    sampler = 0
    if profile.kv is not None:
        # Fewer sequences than the default do not lower the estimate: no measurement shows a saving.
        rows = max(max_num_seqs or 0, constants.sequences)
        logits = rows * (profile.vocabulary_size or 0)
        sampler = int(logits * (constants.sampler_bytes + unit)) + constants.sampler_fixed
        sampler += tokens * hidden * unit
    return max(forward, sampler) + extra


def _latent_workspace(profile: ModelProfile, length: int, unit: int) -> int:
    """Return the bytes of decompressed context in chunked prefill (vLLM's mla backends)."""
    if profile.kv is None:
        return 0
    return min(8 * length, 64 * 1024) * profile.kv.latent_dim * unit


def graph_bytes(profile: ModelProfile, constants: VllmConstants, tensor_parallel: int) -> int:
    """Return the bytes of CUDA graphs for decoding, per device; embedding models capture none."""
    if profile.kv is None:
        return 0
    memory = _memory(profile)
    layers = profile.layers or 0
    wide = 2 * (profile.intermediate_size or 0) // tensor_parallel
    found = constants.graph_fixed + constants.graph_per_layer * layers
    found += constants.graph_per_width * wide
    if memory.get("top_k"):
        found += constants.graph_per_expert_layer * layers
    return found
