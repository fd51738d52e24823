"""Bytes of one sequence in the cache."""

from typing import Any

import pytest

from modelium.analysis import kv_bytes
from modelium.analysis.memory.kv_cache import kv_unit, unit_bytes
from modelium.models import KVLayout
from tests.modelium.analysis.memory.profiles import HEADS, profile_of


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [
        (None, 2), ("", 2), ("auto", 2), ("float16", 2), ("half", 2), ("bfloat16", 2),
        ("float32", 4), ("float", 4), ("float64", 8), ("fp8", 2),
    ],
)  # fmt: skip
def test_activations_have_two_bytes_unless_asked_otherwise(dtype: str | None, unit: int) -> None:
    assert unit_bytes(dtype) == unit


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [
        (None, 3.0), ("auto", 3.0), ("fp8", 1.0), ("fp8_e4m3", 1.0), ("fp8_e5m2", 1.0),
        ("int8", 1.0), ("q8_0", 1.0625), ("q4_0", 0.5625), ("float32", 4.0), ("bfloat16", 2.0),
        ("unheard of", 3.0),
    ],
)  # fmt: skip
def test_the_cache_has_the_models_dtype_unless_asked_otherwise(
    dtype: str | None, unit: float
) -> None:
    assert kv_unit(dtype, 3) == unit


@pytest.mark.parametrize(
    ("layout", "settings", "found"),
    [
        (HEADS, {}, 7 * 100 * 6 * 9 * 2),
        (HEADS, {"dtype": "float32"}, 7 * 100 * 6 * 9 * 4),
        (HEADS, {"dtype": "float32", "kv_dtype": "fp8"}, 7 * 100 * 6 * 9),
        (HEADS, {"tensor_parallel": 4}, 7 * 100 * 2 * 9 * 2),
        (KVLayout(full_layers=1, kv_heads=1, key_dim=1), {"kv_dtype": "q8_0"}, 107),  # 106.25
        # A token selector's keys are on every device.
        (
            HEADS.model_copy(update={"index_bytes": 11, "sliding_layers": 3}),
            {"tensor_parallel": 3},
            10 * 100 * (2 * 9 * 2 + 11),
        ),
        (KVLayout(state_layers=3, state_elements=99), {}, 198),
        (KVLayout(state_layers=3, state_elements=99), {"tensor_parallel": 4}, 50),  # 49.5
        (KVLayout(state_layers=3, state_elements=99, state_bytes=301), {"tensor_parallel": 2}, 151),
        (KVLayout(state_layers=3, state_elements=99), {"state": False}, 0),
        (
            HEADS.model_copy(update={"state_layers": 3, "state_elements": 99}),
            {"kv_dtype": "float32"},
            7 * 100 * 6 * 9 * 4 + 99 * 4,
        ),
        (None, {}, 0),
    ],
)
def test_a_sequence_of_a_hundred_tokens(
    layout: KVLayout | None, settings: dict[str, Any], found: int
) -> None:
    assert kv_bytes(profile_of(kv=layout), 100, **settings) == found
