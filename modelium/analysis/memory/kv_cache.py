"""Bytes of KV cache for a model and settings: pure arithmetic."""

from __future__ import annotations

import math

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


def unit_bytes(dtype: str | None) -> int:
    """Return the bytes of one activation in ``dtype``; 2 by default (engines halve float32)."""
    return DTYPE_BYTES.get(str(dtype), 2)


def kv_unit(kv_dtype: str | None, unit: int) -> float:
    """Return the bytes of one element of the KV cache; ``unit`` is the default."""
    name = str(kv_dtype)
    return float(_KV_BYTES.get(name, DTYPE_BYTES.get(name, unit)))


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
    layout = profile.kv
    unit = kv_unit(kv_dtype, unit_bytes(dtype))
    found = unit * kv_layout.per_sequence(layout, tokens, tensor_parallel=tensor_parallel)
    found += layout.index_bytes * (layout.full_layers + layout.sliding_layers) * tokens
    if state:
        found += (layout.state_bytes or layout.state_elements * unit) / tensor_parallel
    return math.ceil(found)
