"""Fits load settings into a memory budget: the longest context first, then the most sequences."""

from __future__ import annotations

from modelium.analysis.memory.footprint import estimate
from modelium.analysis.memory.kv_cache import (
    DEFAULT_CONTEXT,
    DEFAULT_SEQUENCES,
    TYPICAL_TOKENS,
    kv_bytes,
)
from modelium.models import ModelProfile, RuntimeName


def fit(
    profile: ModelProfile,
    *,
    runtime: RuntimeName,
    budget_bytes: int,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    engine_version: str | None = None,
    device_kind: str | None = None,
    quantization: str | None = None,
    min_model_len: int = 1024,
    min_num_seqs: int = 1,
) -> tuple[int, int, int] | None:
    """Return the largest ``(max_model_len, max_num_seqs, kv_cache_bytes)`` for a budget per device.

    ``max_model_len`` and ``max_num_seqs`` are upper bounds (defaults: the model's own context,
    `DEFAULT_SEQUENCES`); concurrency is reduced before the context. Returns ``None`` if a context
    of ``min_model_len`` tokens or ``min_num_seqs`` typical sequences do not fit.
    """
    wanted = max_model_len or profile.context_length or DEFAULT_CONTEXT
    sequences = max_num_seqs or DEFAULT_SEQUENCES
    smallest = estimate(
        profile, runtime=runtime, tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=kv_dtype,
        max_model_len=1, max_num_seqs=sequences, engine_version=engine_version,
        device_kind=device_kind, quantization=quantization,
    )  # fmt: skip
    left = budget_bytes - (smallest.reserve - smallest.kv)

    def cost(tokens: int) -> int:
        return kv_bytes(
            profile, tokens, tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=kv_dtype
        )

    floor = min(min_model_len, wanted)
    if left < cost(floor) or left < min_num_seqs * cost(min(floor, TYPICAL_TOKENS)):
        return None
    low, high = floor, wanted
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= left else (low, middle - 1)
    typical = cost(min(low, TYPICAL_TOKENS))
    if typical:
        sequences = max(min_num_seqs, min(sequences, left // typical))
    return low, sequences, min(left, max(cost(low), sequences * typical))
