"""Elements of the KV cache, per layer and token, each size with a number of its own."""

from typing import Any

import pytest

from modelium.analysis.architecture.kv_layout import (
    layout_of,
    per_layer_token,
    per_sequence,
    per_token,
)
from modelium.models import KVLayout
from tests.modelium.analysis.architecture.shapes import text_of

WINDOWS = ["sliding", "full", "sliding"]
PLAIN = {"kv_heads": 2, "key_dim": 5, "value_dim": 5}
WIDER = {
    "kv_heads": 2, "key_dim": 7, "value_dim": 7, "sliding_kv_heads": 2, "sliding_key_dim": 5,
    "sliding_value_dim": 5,
}  # fmt: skip
LATENT: dict[str, Any] = {"kv_lora_rank": 19, "qk_rope_head_dim": 2}


@pytest.mark.parametrize(
    ("raw", "layout"),
    [
        ({}, {"full_layers": 3, **PLAIN}),
        ({"v_head_dim": 3}, {"full_layers": 3, **PLAIN, "value_dim": 3}),
        ({"layer_types": ["full", "mlp", "mlp"]}, {"full_layers": 1, **PLAIN}),
        (
            {"layer_types": WINDOWS, "sliding_window": 4},
            {"full_layers": 1, "sliding_layers": 2, "sliding_window": 4, **PLAIN},
        ),
        ({"layer_types": ["full"] * 3, "sliding_window": 4}, {"full_layers": 3, **PLAIN}),
        ({"sliding_window": 4}, {"sliding_layers": 3, "sliding_window": 4, **PLAIN}),
        ({"global_head_dim": 7}, {"full_layers": 3, **PLAIN}),
        (
            {"layer_types": WINDOWS, "global_head_dim": 7},
            {"full_layers": 1, "sliding_layers": 2, **WIDER},
        ),
        (
            {"layer_types": WINDOWS, "global_head_dim": 7, "num_global_key_value_heads": 3,
             "v_head_dim": 4},
            {"full_layers": 1, "sliding_layers": 2, **WIDER, "kv_heads": 3,
             "sliding_value_dim": 4},
        ),
        (LATENT, {"full_layers": 3, "latent_dim": 21}),
        (
            {**LATENT, "layer_types": WINDOWS, "sliding_window": 4},
            {"full_layers": 1, "sliding_layers": 2, "sliding_window": 4, "latent_dim": 21},
        ),
        (
            {**LATENT, "layer_types": ["full"] * 3, "sliding_window": 4},
            {"full_layers": 3, "latent_dim": 21},
        ),
    ],
)  # fmt: skip
def test_a_layout_has_the_layers_by_kind(raw: dict[str, Any], layout: dict[str, Any]) -> None:
    assert layout_of(text_of(**raw)) == KVLayout(**layout)


@pytest.mark.parametrize("raw", [{"num_hidden_layers": 0}, {"layer_types": ["mlp"] * 3}])
def test_without_attention_or_state_there_is_no_cache(raw: dict[str, Any]) -> None:
    assert layout_of(text_of(**raw)) is None


@pytest.mark.parametrize(
    ("dim", "types", "found"),
    [
        (0, None, 0),
        (128, None, 132),
        (129, None, 137),  # a scale of four bytes for each 128
        (1, None, 5),
        (128, "shared", 132),
        (128, ["full", "shared", "shared"], 44),
        (128, ["full", "full", "shared", "shared"], 88),  # beyond the layers
        (129, ["full", "full", "shared"], 92),  # 91⅓, rounded up
    ],
)
def test_a_token_selectors_keys_are_spread_over_the_layers(
    dim: int, types: Any, found: int
) -> None:
    layout = layout_of(text_of(**LATENT, index_head_dim=dim, indexer_types=types))
    assert layout is not None and layout.index_bytes == found


GATED: dict[str, Any] = {
    "layer_types": ["linear_attention", "full", "linear_attention"], "linear_num_value_heads": 6,
    "linear_num_key_heads": 3, "linear_key_head_dim": 7, "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 3,
}  # fmt: skip
MAMBA2: dict[str, Any] = {
    "layer_types": ["mamba", "full", "mamba"], "mamba_num_heads": 7, "mamba_head_dim": 5,
    "ssm_state_size": 3, "n_groups": 2, "conv_kernel": 6,
}  # fmt: skip
MAMBA1: dict[str, Any] = {
    "layer_types": ["mamba", "full", "mamba"], "mamba_expand": 3, "mamba_d_state": 5,
    "mamba_d_conv": 6,
}  # fmt: skip
KIMI: dict[str, Any] = {
    "layer_types": ["linear_attention", "full", "linear_attention"],
    "linear_attn_config": {"num_heads": 3, "head_dim": 7, "short_conv_kernel_size": 6},
}  # fmt: skip


def without(config: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names} | more


@pytest.mark.parametrize(
    ("family", "raw", "recurrent", "convolution", "size", "copies"),
    [
        ("x", GATED, 6 * 7 * 5, (2 * 3 * 7 + 6 * 5) * 2, 4, 2),
        (
            "x", without(GATED, "linear_num_key_heads"),
            6 * 7 * 5, (2 * 6 * 7 + 6 * 5) * 2, 4, 2,
        ),
        (
            "x",
            without(GATED, "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim"),
            6 * 128 * 128, (2 * 3 * 128 + 6 * 128) * 3, 4, 2,
        ),
        ("x", KIMI, 3 * 7 * 7, 3 * 3 * 7 * 5, 4, 3),
        (
            "x", {**KIMI, "linear_attn_config": {"num_heads": 3}},
            3 * 5 * 5, 3 * 3 * 5 * 3, 4, 3,
        ),
        (
            "x", {**KIMI, "linear_attn_config": {"head_dim": 7}},
            6 * 7 * 7, 3 * 6 * 7 * 3, 4, 3,
        ),
        ("x", MAMBA2, 35 * 3, (35 + 2 * 2 * 3) * 5, 2, 3),
        ("nemotron_h", MAMBA2, 35 * 3, (35 + 2 * 2 * 3) * 5, 4, 3),
        ("x", {**MAMBA2, "mamba_ssm_cache_dtype": "float32"}, 35 * 3, 47 * 5, 4, 3),
        ("x", {**MAMBA2, "mamba_ssm_dtype": "float32"}, 35 * 3, 47 * 5, 4, 3),
        ("x", {**MAMBA2, "mamba_ssm_dtype": "bfloat16"}, 35 * 3, 47 * 5, 2, 3),
        (
            "x",
            without(MAMBA2, "n_groups", "mamba_num_heads", "mamba_head_dim", "conv_kernel",
                    mamba_n_heads=7, mamba_d_head=5, mamba_n_groups=2, mamba_d_conv=6),
            35 * 3, 47 * 5, 2, 3,
        ),
        (
            "x", without(MAMBA2, "n_groups", "mamba_head_dim", "conv_kernel"),
            7 * 64 * 3, (7 * 64 + 2 * 3) * 3, 2, 3,
        ),
        ("x", MAMBA1, 33 * 5, (33 + 2 * 5) * 5, 2, 3),
        (
            "x", without(MAMBA1, "mamba_expand", "mamba_d_state", expand=4, state_size=7),
            44 * 7, (44 + 2 * 7) * 5, 2, 3,
        ),
        ("x", {"layer_types": ["mamba", "full", "mamba"]}, 22 * 16, (22 + 2 * 16) * 3, 2, 3),
    ],
)  # fmt: skip
def test_states_are_recurrent_and_convolved(
    family: str, raw: dict[str, Any], recurrent: int, convolution: int, size: int, copies: int
) -> None:
    """``size``: bytes of a recurrent element; a convolved one has two."""
    assert layout_of(text_of(family, **raw)) == KVLayout(
        full_layers=1, state_layers=2, state_elements=2 * (recurrent + convolution),
        state_bytes=2 * (size * recurrent + 2 * convolution), state_copies=copies, **PLAIN,
    )  # fmt: skip


def test_latent_attention_may_stand_beside_states() -> None:
    found = layout_of(text_of(**KIMI, **LATENT))
    assert found is not None
    assert (found.full_layers, found.state_layers, found.latent_dim) == (1, 2, 21)
    assert found.state_bytes == 2 * (4 * 3 * 7 * 7 + 2 * 3 * 3 * 7 * 5)


def test_a_model_of_states_alone_has_no_growing_layer() -> None:
    found = layout_of(text_of("mamba"))
    assert found is not None and (found.full_layers, found.state_layers) == (0, 3)


ALIKE = KVLayout(full_layers=2, sliding_layers=3, kv_heads=5, key_dim=7, value_dim=11)
APART = ALIKE.model_copy(
    update={"sliding_kv_heads": 4, "sliding_key_dim": 6, "sliding_value_dim": 9}
)


@pytest.mark.parametrize(
    ("layout", "degree", "full", "sliding"),
    [
        (ALIKE, 1, 5 * 18, 5 * 18),
        (ALIKE, 2, 3 * 18, 3 * 18),
        (ALIKE, 5, 18, 18),
        (ALIKE, 16, 18, 18),
        (APART, 1, 5 * 18, 4 * 15),
        (APART, 2, 3 * 18, 2 * 15),
        (APART, 4, 2 * 18, 15),
        (APART.model_copy(update={"sliding_kv_heads": 0}), 1, 5 * 18, 0),
        (KVLayout(full_layers=2, latent_dim=21), 4, 21, 21),
    ],
)
def test_a_layer_keeps_keys_and_values_of_the_heads_on_its_device(
    layout: KVLayout, degree: int, full: int, sliding: int
) -> None:
    assert per_layer_token(layout, tensor_parallel=degree) == full
    assert per_layer_token(layout, tensor_parallel=degree, sliding=True) == sliding


@pytest.mark.parametrize(
    ("tokens", "held"), [(1, 1), (12, 12), (13, 13), (14, 13), (100, 13)]
)  # of a window of 13
def test_layers_with_a_window_hold_no_more_than_it(tokens: int, held: int) -> None:
    windowed = APART.model_copy(update={"sliding_window": 13})
    assert per_sequence(windowed, tokens) == 2 * tokens * 90 + 3 * held * 60
    assert per_sequence(windowed, tokens, tensor_parallel=2) == 2 * tokens * 54 + 3 * held * 30
    assert per_sequence(APART, tokens) == 2 * tokens * 90 + 3 * tokens * 60


def test_a_token_costs_its_part_of_every_growing_layer() -> None:
    assert per_token(APART) == 2 * 90 + 3 * 60
    stateful = KVLayout(full_layers=2, sliding_layers=3, state_layers=5, state_elements=99,
                        latent_dim=7)  # fmt: skip
    assert per_token(stateful) == 5 * 7
