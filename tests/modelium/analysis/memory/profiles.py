"""A small profile, each size with a number of its own, so that swapped ones show."""

from __future__ import annotations

from typing import Any

from modelium.models import KVLayout, ModelFormat, ModelProfile, Task

HEADS = KVLayout(full_layers=7, kv_heads=6, key_dim=5, value_dim=4)


def profile_of(memory: dict[str, Any] | None = None, **changes: Any) -> ModelProfile:
    """A text model of seven layers with ``changes``; ``memory`` is what its matrices add up to."""
    values: dict[str, Any] = {
        "format": ModelFormat.TRANSFORMERS, "architecture": "XForCausalLM",
        "task": Task.TEXT_GENERATION, "weight_bytes": 1000, "dtype": "bfloat16",
        "weight_bytes_by_dtype": {"BF16": 1000}, "context_length": 3000, "vocabulary_size": 101,
        "layers": 7, "hidden_size": 13, "intermediate_size": 44, "kv": HEADS,
        "details": {} if memory is None else {"memory": memory},
    }  # fmt: skip
    return ModelProfile(**(values | changes))
