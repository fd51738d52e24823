"""Totals over all matrices, and the rotary tables, each size with a number of its own."""

from typing import Any

import pytest

from modelium.analysis.architecture.quantization import Quantization, Scheme
from modelium.analysis.architecture.weights import Weights, count, rope_elements
from tests.modelium.analysis.architecture.shapes import text_of

EMBEDDING = 128 * 11
"""Elements of the embedding, and of the output layer."""
QUERY, KEY_VALUE, OUTPUT, FEED_FORWARD = 30 * 11, 2 * 10 * 11, 11 * 30, 3 * 13 * 11
LAYER = QUERY + KEY_VALUE + OUTPUT + FEED_FORWARD
ROWS = 30 + 2 * 10 + 11 + 2 * 13 + 11
"""Outputs of a layer's linear matrices."""
NORMS = 22


def total(
    quantization: Quantization | None = None, *, dtype: str = "bfloat16", head: bool = True,
    config: dict[str, Any] | None = None, **changes: Any,
) -> Weights:  # fmt: skip
    text = text_of(**changes)
    return count(text, config or {}, quantization, dtype=dtype, head=head)


@pytest.mark.parametrize(
    ("dtype", "unit", "short"),
    [
        ("bfloat16", 2, "BF16"),
        ("float16", 2, "F16"),
        ("half", 2, "F16"),
        ("float32", 4, "F32"),
        ("float", 4, "F32"),
        ("float64", 8, "BF16"),
        ("unheard of", 2, "BF16"),
    ],
)
def test_every_matrix_is_counted_at_the_files_dtype(dtype: str, unit: int, short: str) -> None:
    parameters = 2 * EMBEDDING + 3 * (LAYER + NORMS) + 11
    assert total(dtype=dtype) == Weights(
        parameters=parameters, bytes=parameters * unit, by_dtype={short: parameters * unit},
        replicated=(3 * NORMS + 11) * unit, key_value=3 * KEY_VALUE * unit,
        plain_linear=3 * LAYER * unit, plain_linear_rows=3 * ROWS,
    )  # fmt: skip


def test_the_output_layer_is_left_out_on_request() -> None:
    assert total().bytes - total(head=False).bytes == 2 * EMBEDDING
    assert total().plain_linear == total(head=False).plain_linear


def test_biases_are_counted_but_not_converted() -> None:
    plain, with_bias = total(), total(attention_bias=True)
    assert with_bias.parameters - plain.parameters == 3 * (30 + 2 * 10 + 11)
    assert with_bias.bytes - plain.bytes == 2 * 3 * (30 + 2 * 10 + 11)
    assert with_bias.key_value - plain.key_value == 2 * 3 * 2 * 10
    assert with_bias.plain_linear == plain.plain_linear


def test_the_matrices_of_towers_are_counted_too() -> None:
    sight = {"hidden_size": 8, "num_hidden_layers": 5, "intermediate_size": 19, "patch_size": 7}
    attention, feed_forward = 20 * 8 * 8, 10 * 19 * 8
    patches, merger = 8 * 3 * 7 * 7, 8 * 8 + 11 * 8
    biases = 20 * 8 + 10 * 13
    plain, seeing = total(dtype="float32"), total(dtype="float32", config={"vision_config": sight})
    more = attention + feed_forward + biases + patches + merger
    assert seeing.parameters - plain.parameters == more
    assert seeing.by_dtype == {"F32": plain.bytes + 4 * more}
    assert seeing.replicated - plain.replicated == 4 * patches
    assert seeing.plain_linear - plain.plain_linear == 4 * (attention + feed_forward + merger)
    rows = 20 * 8 + 10 * 19 + 8 + 11
    assert seeing.plain_linear_rows - plain.plain_linear_rows == rows


def test_latent_attention_is_stored_a_second_time_for_decoding() -> None:
    sizes: dict[str, Any] = {
        "kv_lora_rank": 19,
        "qk_nope_head_dim": 4,
        "v_head_dim": 3,
        "qk_rope_head_dim": 2,
    }
    found = total(dtype="float32", **sizes)
    assert found.absorbed == 3 * 6 * (4 + 3) * 19 * 2
    assert found.key_value == 0
    assert total().absorbed == 0


def test_quantized_matrices_have_their_schemes_size_and_name() -> None:
    scheme = Scheme(name="eight", bits=8, scale_bits=0)
    quantization = Quantization(name="q", default=scheme, excluded=frozenset({"layers.0.mlp"}))
    found = total(quantization, attention_bias=True)
    biases = 30 + 2 * 10 + 11
    converted = 3 * (QUERY + KEY_VALUE + OUTPUT) + 2 * FEED_FORWARD + 2 * 3 * biases
    plain = 2 * (2 * EMBEDDING + 3 * NORMS + 11 + FEED_FORWARD)
    assert found.by_dtype == {"eight": converted, "BF16": plain}
    assert found.bytes == converted + plain
    assert found.parameters == total(attention_bias=True).parameters
    assert found.key_value == 3 * (KEY_VALUE + 2 * 2 * 10)
    assert (found.plain_linear, found.plain_linear_rows) == (2 * FEED_FORWARD, 2 * 13 + 11)


@pytest.mark.parametrize(
    ("changes", "elements"),
    [
        ({}, 17 * 5),
        ({"max_position_embeddings": 0}, 0),
        ({"num_attention_heads": None}, 0),
        # The share of each head that turns.
        ({"partial_rotary_factor": 0.5}, 17 * 2),
        ({"rotary_pct": 0.5}, 17 * 2),
        ({"partial_rotary_factor": 0.8, "rotary_pct": 0.5}, 17 * 4),
        ({"partial_rotary_factor": 0}, 17 * 5),
        ({"partial_rotary_factor": 1.5}, 17 * 5),
        ({"rope_parameters": {"partial_rotary_factor": 0.4}, "partial_rotary_factor": 0.8}, 17 * 2),
        ({"qk_rope_head_dim": 3}, 17 * 3),
        ({"qk_rope_head_dim": 3, "kv_lora_rank": 19}, 17 * 3),
        ({"kv_lora_rank": 19}, 0),
        # Scaled contexts.
        ({"rope_scaling": {"type": "linear", "factor": 2.5}}, 42 * 5),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, 34 * 5),
        ({"rope_scaling": {"type": "linear"}}, 17 * 5),
        ({"rope_scaling": {"type": "linear", "factor": 4096}}, 17 * 4096 * 5),
        ({"rope_scaling": {"type": "linear", "factor": 4097}}, 17 * 5),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, 17 * 5),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, 17 * 5),
        ({"rope_scaling": {"rope_type": "llama3", "type": "linear", "factor": 8}}, 17 * 5),
        ({"rope_scaling": {"factor": 8}}, 17 * 5),
        ({"rope_scaling": {"type": "yarn", "factor": 3}}, 17 * 3 * 5),
        (
            {"rope_scaling": {"type": "yarn", "factor": 3, "original_max_position_embeddings": 7}},
            21 * 5,
        ),
        (
            {"rope_scaling": {
                "rope_type": "deepseek_yarn", "factor": 3, "original_max_position_embeddings": 7}},
            21 * 5,
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 3, "original_max_position_embeddings": 7},
             "max_position_embeddings": 0},
            0,
        ),
        (
            {"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 7}},
            (17 + 7) * 5,
        ),
        ({"rope_scaling": {"type": "su", "original_max_position_embeddings": 7}}, (17 + 7) * 5),
        ({"rope_scaling": {"type": "longrope"}}, 17 * 5),
        ({"rope_scaling": {"type": "llama3", "original_max_position_embeddings": 7}}, 17 * 5),
        # One table per kind of layer.
        ({"rope_parameters": {"rope_type": "linear", "factor": 2}}, 34 * 5),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2},
             "rope_scaling": {"type": "linear", "factor": 3}},
            51 * 5,
        ),
        (
            {"rope_parameters": {
                "full": {"rope_type": "linear", "factor": 2}, "sliding": {"factor": 3}}},
            (34 + 17) * 5,
        ),
        ({"rope_local_base_freq": 10000}, 2 * 17 * 5),
        ({"rope_local_base_freq": 10000, "rope_parameters": {"full": {}}}, 17 * 5),
        (
            {"rope_local_base_freq": 10000, "rope_scaling": {"type": "linear", "factor": 2}},
            (34 + 17) * 5,
        ),
        ({"model_type": "gemma3_text"}, 2 * 17 * 5),
        ({"model_type": "gemma2"}, 17 * 5),
        # Families without rotation.
        *(
            ({"model_type": family}, 0)
            for family in ("gpt2", "opt", "bloom", "mpt", "gpt_bigcode", "whisper", "nemotron_h",
                           "bert", "roberta", "t5", "bart", "jamba", "mamba", "mamba2")
        ),
        *(
            ({"position_embedding_type": kind}, 0)
            for kind in ("absolute", "relative_key", "relative_key_query")
        ),
        ({"position_embedding_type": "rotary"}, 17 * 5),
        ({"position_embedding_type": ["absolute"]}, 17 * 5),
    ],
)  # fmt: skip
def test_rotary_tables_follow_the_length_and_the_heads(
    changes: dict[str, Any], elements: int
) -> None:
    family = changes.get("model_type", "llama")
    rest = {name: value for name, value in changes.items() if name != "model_type"}
    assert rope_elements(text_of(family, **rest)) == elements
