"""Every family's names for the same sizes, read into one structure."""

from typing import Any

import pytest

from modelium.analysis.architecture.families import NESTED_LLAMA, family_defaults
from modelium.analysis.architecture.hf_config import (
    MAX_LAYERS,
    Experts,
    Latent,
    Text,
    read_experts,
    read_latent,
    read_text,
    text_section,
)
from tests.modelium.analysis.architecture.shapes import text_of

NAMES = {
    "layers": ["num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"],
    "hidden": ["hidden_size", "n_embd", "d_model", "model_dim"],
    "heads": [
        "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
    ],
    "kv_heads": ["num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads"],
    "head_dim": ["head_dim", "kv_channels", "attention_head_dim", "d_kv"],
    "intermediate": [
        "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "decoder_ffn_dim",
        "encoder_ffn_dim", "hidden_dim",
    ],
    "vocabulary": ["padded_vocab_size", "vocab_size"],
    "positions": [
        "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx",
        "max_sequence_length", "model_max_length", "max_target_positions",
    ],
    "window": ["sliding_window", "window_size", "sliding_window_size"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("attribute", "name"), [(attribute, name) for attribute in NAMES for name in NAMES[attribute]]
)
def test_each_name_of_a_size_is_read(attribute: str, name: str) -> None:
    # Names are in the order of precedence.
    later = NAMES[attribute][NAMES[attribute].index(name) :]
    found = read_text({"model_type": "x", **dict.fromkeys(later, 9), name: 7})
    assert getattr(found, attribute) == 7


def test_a_configuration_without_sizes_has_none() -> None:
    assert read_text({}) == Text(
        family="", layers=0, hidden=0, heads=0, kv_heads=0, head_dim=0, intermediate=0,
        vocabulary=0, positions=0, tied=False, kinds=(), window=None, latent=None, experts=None,
        raw={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "layers"),
    [
        ({"hybrid_override_pattern": "M*M-E"}, 5),
        ({"layers_block_type": ["mamba", "moe"]}, 2),
        ({"layers_block_type": 7}, 0),
        ({"num_hidden_layers": 3, "hybrid_override_pattern": "M*M-E"}, 3),
        ({"num_hidden_layers": 0, "hybrid_override_pattern": "M*M-E"}, 0),
        ({"num_hidden_layers": MAX_LAYERS + 1}, MAX_LAYERS),
    ],
)
def test_layers_are_stated_or_counted_in_a_pattern(raw: dict[str, Any], layers: int) -> None:
    found = read_text(raw)
    assert (found.layers, len(found.kinds)) == (layers, layers)


def test_a_heads_width_is_its_share_of_the_hidden_size() -> None:
    found = read_text({"hidden_size": 23, "num_attention_heads": 4})
    assert (found.head_dim, found.kv_heads) == (5, 4)


@pytest.mark.parametrize(
    ("raw", "heads"),
    [
        ({}, 2),
        ({"multi_query": True}, 1),
        ({"multi_query": 1}, 2),
        ({"multi_query": True, "new_decoder_architecture": True}, 2),
        ({"multi_query_attention": True, "multi_query_group_num": 3}, 3),
        ({"multi_query_attention": True}, 2),
        ({"multi_query_attention": False, "multi_query_group_num": 3}, 2),
        ({"num_key_value_heads": None, "attn_config": {"kv_n_heads": 3}}, 3),
        ({"num_key_value_heads": None, "attention_config": {"kv_n_heads": 3}}, 3),
        ({"attn_config": {"kv_n_heads": 3}}, 2),
        ({"num_key_value_heads": None}, 6),
    ],
)
def test_kv_heads_are_stated_grouped_or_single(raw: dict[str, Any], heads: int) -> None:
    assert text_of(**raw).kv_heads == heads


@pytest.mark.parametrize(
    ("raw", "intermediate"),
    [
        ({}, 44),
        ({"expansion_ratio": 3}, 33),
        ({"mlp_ratio": 5}, 55),
        ({"ffn_config": {"ffn_hidden_size": 7}, "mlp_ratio": 5}, 7),
        ({"intermediate_size": 8, "ffn_config": {"ffn_hidden_size": 7}}, 8),
    ],
)
def test_the_feed_forward_is_four_times_as_wide_unless_stated(
    raw: dict[str, Any], intermediate: int
) -> None:
    assert text_of(**{"intermediate_size": None, **raw}).intermediate == intermediate


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"model_type": "llama"}, False),
        ({"model_type": "gemma"}, True),
        ({"model_type": "gemma", "tie_word_embeddings": False}, False),
        ({"model_type": "gemma", "tie_word_embeddings": "no"}, True),
        ({"model_type": "llama", "tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}}, False),
        ({"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": None}}, True),
        ({"tie_word_embeddings": True, "text_config": {"model_type": "llama"}}, True),
    ],
)
def test_the_output_is_tied_as_stated_or_as_the_family_does(
    config: dict[str, Any], tied: bool
) -> None:
    assert read_text(config).tied is tied


@pytest.mark.parametrize(
    "name", ["text_config", "llm_config", "language_config", "language_model", "thinker_config"]
)
def test_the_language_model_may_be_a_section(name: str) -> None:
    outer = {
        "torch_dtype": "a", "dtype": "b", "tie_word_embeddings": True, "vocab_size": 5,
        "quantization_config": {"bits": 4},
    }  # fmt: skip
    nested = {"hidden_size": 3, "vocab_size": 7}
    config = {**outer, "model_type": "outer", "hidden_size": 2, name: nested}
    assert text_section(config) == {**outer, **nested}
    assert read_text(config).family == "outer"


def test_sections_are_followed_three_deep() -> None:
    fourth = {"text_config": {"hidden_size": 4}}
    config = {"thinker_config": {"text_config": {"llm_config": {"hidden_size": 3, **fourth}}}}
    assert text_section(config) == {"hidden_size": 3, **fourth}
    assert text_section({"hidden_size": 1, "text_config": {}}) == {
        "hidden_size": 1,
        "text_config": {},
    }


def test_only_a_nested_llama_may_leave_out_its_sizes() -> None:
    nested = {"model_type": "llama", "vocab_size": 7}
    assert text_section({"text_config": nested}) == {**NESTED_LLAMA, **nested}
    for stated in ({**nested, "hidden_size": 3}, {**nested, "model_type": "x"}):
        assert text_section({"text_config": stated}) == stated
    assert text_section(nested) == nested


def test_a_familys_defaults_fill_what_is_absent_or_null() -> None:
    found = read_text({"model_type": "gemma2", "hidden_size": 8, "head_dim": None})
    assert (found.hidden, found.head_dim, found.layers, found.window) == (8, 256, 26, 4096)
    assert found.raw == {**family_defaults("gemma2"), "model_type": "gemma2", "hidden_size": 8}
    assert "head_dim" not in family_defaults("mistral")
    assert family_defaults("nobody") == {}


def test_latent_attention_needs_a_rank() -> None:
    assert read_latent({"kv_lora_rank": 0, "qk_rope_head_dim": 3}) is None
    assert read_latent({"kv_lora_rank": 5}) == Latent(
        kv_rank=5, q_rank=0, nope_dim=0, rope_dim=0, value_dim=0
    )
    sizes: dict[str, Any] = {
        "kv_lora_rank": 5,
        "q_lora_rank": 6,
        "qk_nope_head_dim": 7,
        "qk_rope_head_dim": 8,
    }
    found = Latent(kv_rank=5, q_rank=6, nope_dim=7, rope_dim=8, value_dim=7)
    assert text_of(**sizes).latent == read_latent(sizes) == found
    assert read_latent({**sizes, "v_head_dim": 9}) == Latent(
        kv_rank=5, q_rank=6, nope_dim=7, rope_dim=8, value_dim=9
    )


def experts(family: str = "x", layers: int = 2, **raw: Any) -> Experts | None:
    return read_experts({"moe_intermediate_size": 5, **raw}, family, layers)


def usual(**changes: Any) -> Experts:
    values: dict[str, Any] = {
        "count": 3, "active": 2, "intermediate": 5, "shared_intermediate": 0,
        "layers": frozenset({0, 1}),
    }  # fmt: skip
    return Experts(**(values | changes))


@pytest.mark.parametrize(
    "name", ["n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"]
)
def test_several_experts_are_a_mixture(name: str) -> None:
    found = {count: experts("x", 2, **{name: count}) for count in (0, 1, 2, 3)}
    assert found == {0: None, 1: None, 2: usual(count=2), 3: usual()}
    assert experts() is None


@pytest.mark.parametrize(
    ("raw", "changes"),
    [
        ({"num_experts_per_tok": 4}, {"active": 4}),
        ({"num_experts_per_token": 4}, {"active": 4}),
        ({"moe_topk": 4}, {"active": 4}),
        ({"top_k": 4}, {"active": 4}),
        ({"ffn_config": {"moe_top_k": 4}}, {"active": 4}),
        ({"moe_intermediate_size": None, "expert_dim": 7}, {"intermediate": 7}),
        ({"moe_intermediate_size": None, "moe_ffn_hidden_size": 7}, {"intermediate": 7}),
        ({"moe_intermediate_size": None, "intermediate_size": 7}, {"intermediate": 7}),
        ({"moe_intermediate_size": None, "hidden_size": 7}, {"intermediate": 28}),
        ({"moe_intermediate_size": None, "d_model": 7}, {"intermediate": 28}),
        ({"moe_intermediate_size": None}, {"intermediate": 0}),
        ({"n_shared_experts": 2}, {"shared_intermediate": 10}),
        ({"num_shared_experts": 2}, {"shared_intermediate": 10}),
        ({"shared_expert_intermediate_size": 7}, {"shared_intermediate": 7}),
        (
            {"moe_shared_expert_intermediate_size": 7, "n_shared_experts": 2},
            {"shared_intermediate": 7},
        ),
    ],
)
def test_experts_have_a_width_and_a_number_that_is_active(
    raw: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert experts(num_experts=3, **raw) == usual(**changes)


def test_a_section_may_describe_the_experts() -> None:
    assert experts(ffn_config={"moe_num_experts": 3}) == usual()


def test_llama4_always_has_one_shared_expert() -> None:
    assert experts("llama4_text", num_experts=3) == usual(shared_intermediate=5)
    assert text_of("llama4_text", num_local_experts=3, moe_intermediate_size=5).experts == usual(
        active=1, shared_intermediate=5, layers=frozenset({0, 1, 2})
    )


@pytest.mark.parametrize(
    ("raw", "layers"),
    [
        ({}, {0, 1, 2, 3, 4, 5}),
        ({"moe_layers": [-1, 0, 5, 6, "2", True]}, {0, 5}),
        ({"moe_layers": []}, {0, 1, 2, 3, 4, 5}),
        ({"moe_layers": "all"}, {0, 1, 2, 3, 4, 5}),
        ({"mlp_layer_types": ["dense", "sparse", "sparse"]}, {1, 2}),
        ({"mlp_layer_types": ["sparse"] * 9}, {0, 1, 2, 3, 4, 5}),
        ({"mlp_layer_types": []}, {0, 1, 2, 3, 4, 5}),
        ({"mlp_layer_types": "sparse"}, {0, 1, 2, 3, 4, 5}),
        ({"hybrid_override_pattern": "ME*E-EE"}, {1, 3, 5}),
        ({"hybrid_override_pattern": ""}, {0, 1, 2, 3, 4, 5}),
        ({"hybrid_override_pattern": ["E", "M"]}, {0, 1, 2, 3, 4, 5}),
        ({"layers_block_type": ["moe", "mamba", "moe", "attention", "mlp", "moe", "moe"]}, {0, 2, 5}),
        ({"layers_block_type": ["mamba"] * 6}, {0, 1, 2, 3, 4, 5}),
        ({"layers_block_type": "moe"}, {0, 1, 2, 3, 4, 5}),
        ({"first_k_dense_replace": 2}, {2, 3, 4, 5}),
        ({"moe_first_k_dense": 2}, {2, 3, 4, 5}),
        ({"interleave_moe_layer_step": 2}, {1, 3, 5}),
        ({"decoder_sparse_step": 3}, {2, 5}),
        ({"expert_layer_period": 3}, {2, 5}),
        ({"expert_layer_period": 3, "expert_layer_offset": 1}, {1, 4}),
        ({"expert_layer_period": 3, "expert_layer_offset": 0}, {0, 3}),
        ({"expert_layer_period": 2, "expert_layer_offset": 3}, {1, 3, 5}),
        ({"moe_layer_freq": 2}, {0, 2, 4}),
        ({"moe_layer_freq": 2, "first_k_dense_replace": 1}, {2, 4}),
        ({"mlp_only_layers": [0, 3, "4", 9]}, {1, 2, 4, 5}),
        ({"mlp_only_layers": 0}, {0, 1, 2, 3, 4, 5}),
    ],
)  # fmt: skip
def test_layers_with_experts_are_listed_or_counted(raw: dict[str, Any], layers: set[int]) -> None:
    assert experts(layers=6, num_experts=3, **raw) == usual(layers=frozenset(layers))
