"""Bytes of KV cache for a model and settings: pure arithmetic."""

from __future__ import annotations

from modelium.analysis.architecture import kv_layout
from modelium.analysis.architecture.weights import DTYPE_BYTES
from modelium.models import ModelProfile

TYPICAL_TOKENS = 1024
"""Expected length of one of many concurrent sequences (prompt and answer)."""
DEFAULT_CONTEXT = 2048
DEFAULT_SEQUENCES = 16
"""Concurrency that is planned for if none is requested."""
_KV_BYTES = {
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "int8": 1.0,
    "q8_0": 1.0625,
    "q4_0": 0.5625,
}


def unit_bytes(profile: ModelProfile, dtype: str | None) -> int:
    """Return the bytes of one activation in ``dtype``; 2 by default (engines halve float32)."""
    if dtype and dtype != "auto":
        return DTYPE_BYTES.get(dtype, 2)
    return 2


def kv_unit(kv_dtype: str | None, unit: int) -> float:
    """Return the bytes of one element of the KV cache; ``unit`` is the default."""
    if kv_dtype is None or kv_dtype == "auto":
        return float(unit)
    return _KV_BYTES.get(kv_dtype, DTYPE_BYTES.get(kv_dtype, unit))


def kv_bytes(
    profile: ModelProfile,
    tokens: int,
    *,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    state: bool = True,
) -> int:
    """Return the bytes of KV cache for one sequence of ``tokens`` on each device.

    ``state``: include the constant state of Mamba and linear-attention layers.
    """
    if profile.kv is None:
        return 0
    elements = kv_layout.per_sequence(
        profile.kv, tokens, tensor_parallel=tensor_parallel, state=state
    )
    return int(elements * kv_unit(kv_dtype, unit_bytes(profile, dtype)))


def pool_bytes(
    profile: ModelProfile,
    tensor_parallel: int,
    dtype: str | None,
    kv_dtype: str | None,
    max_model_len: int | None,
    max_num_seqs: int | None,
) -> int:
    """Return the bytes of the planned pool: one sequence of full length or many typical ones."""
    length = max_model_len or profile.context_length or DEFAULT_CONTEXT
    sequences = max_num_seqs or DEFAULT_SEQUENCES
    one = kv_bytes(profile, length, tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=kv_dtype)
    typical = kv_bytes(
        profile, min(length, TYPICAL_TOKENS), tensor_parallel=tensor_parallel, dtype=dtype,
        kv_dtype=kv_dtype,
    )  # fmt: skip
    return max(one, sequences * typical)
