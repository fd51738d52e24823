"""The matrices of attention, each size with a number of its own."""

from typing import Any

import pytest

from modelium.analysis.architecture.attention import attention_modules
from tests.modelium.analysis.architecture.shapes import lines, text_of


def attention(family: str = "llama", index: int = 0, **changes: Any) -> list[str]:
    text = text_of(family, **changes)
    return lines(attention_modules(text, "p", index), without="p.")


PLAIN = ["q_proj 30×11", "k_proj 10×11", "v_proj 10×11", "o_proj 11×30"]
INPUT = ["q_proj 30×11 bias 30", "k_proj 10×11 bias 10", "v_proj 10×11 bias 10", "o_proj 11×30"]
OUTPUT = ["q_proj 30×11", "k_proj 10×11", "v_proj 10×11", "o_proj 11×30 bias 11"]
BOTH = [*INPUT[:3], OUTPUT[3]]


@pytest.mark.parametrize(
    ("family", "flags", "found"),
    [
        ("llama", {}, PLAIN),
        ("llama", {"attention_bias": True}, BOTH),
        ("llama", {"attention_bias": False}, PLAIN),
        ("llama", {"attention_bias": 1}, PLAIN),
        ("llama", {"qkv_bias": True}, INPUT),
        ("llama", {"add_qkv_bias": True}, INPUT),
        ("llama", {"use_qkv_bias": True}, INPUT),
        ("llama", {"bias": True}, INPUT),
        ("llama", {"add_bias_linear": True}, BOTH),
        ("llama", {"attention_out_bias": True}, OUTPUT),
        ("phi", {}, BOTH),
        ("qwen2", {}, INPUT),
        ("qwen2", {"attention_bias": True}, INPUT),
        ("qwen2", {"attention_out_bias": True}, BOTH),
        ("gpt_oss", {}, BOTH),
        ("gpt_oss", {"attention_bias": True}, BOTH),
    ],
)
def test_biases_follow_the_family_and_its_flags(
    family: str, flags: dict[str, Any], found: list[str]
) -> None:
    assert attention(family, **flags) == found


def test_an_output_gate_doubles_the_queries() -> None:
    gated = ["q_proj 60×11 bias 60", *INPUT[1:]]
    assert attention("qwen2", attn_output_gate=True) == gated
    assert attention("qwen2", attn_output_gate=False) == INPUT


def test_values_may_be_narrower_than_keys() -> None:
    assert attention(v_head_dim=3, qkv_bias=True) == [
        "q_proj 30×11 bias 30", "k_proj 10×11 bias 10", "v_proj 6×11 bias 6", "o_proj 11×18",
    ]  # fmt: skip


def test_the_last_layers_may_share_keys_and_values() -> None:
    shared = [PLAIN[0], PLAIN[3]]
    found = [attention(index=index, num_kv_shared_layers=2) for index in range(3)]
    assert found == [PLAIN, shared, shared]


GEMMA4: dict[str, Any] = {
    "layer_types": ["sliding", "full", "full"], "global_head_dim": 7,
    "num_global_key_value_heads": 3,
}  # fmt: skip


def test_layers_of_the_whole_context_may_have_wider_heads() -> None:
    wide = ["q_proj 42×11", "k_proj 21×11", "v_proj 21×11", "o_proj 11×42"]
    assert [attention(index=index, **GEMMA4) for index in range(3)] == [PLAIN, wide, wide]
    same_heads = ["q_proj 42×11", "k_proj 14×11", "v_proj 14×11", "o_proj 11×42"]
    assert attention(index=1, **{**GEMMA4, "num_global_key_value_heads": None}) == same_heads
    assert attention(index=1, **{**GEMMA4, "layer_types": ["full"] * 3}) == PLAIN


def test_values_may_be_the_keys_in_layers_of_the_whole_context() -> None:
    found = [attention(index=index, **GEMMA4, attention_k_eq_v=True) for index in range(2)]
    assert found == [PLAIN, ["q_proj 42×11", "k_proj 21×11", "o_proj 11×42"]]


LATENT: dict[str, Any] = {
    "kv_lora_rank": 19, "q_lora_rank": 23, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2,
    "v_head_dim": 3,
}  # fmt: skip
OF_LATENT = [
    "q_a_proj 23×11 whole", "q_b_proj 36×23", "kv_a_proj_with_mqa 21×11 whole", "kv_b_proj 42×19",
    "o_proj 11×18",
]  # fmt: skip
INDEXER = ["indexer.wq_b 56×23 whole", "indexer.wk 8×11 whole"]
INDEXER += ["indexer.weights_proj 7×11 whole table"]


def test_latent_attention_has_low_rank_projections() -> None:
    assert attention("deepseek_v3", **LATENT) == OF_LATENT
    direct = ["q_proj 36×11", *OF_LATENT[2:]]
    assert attention("deepseek_v2", **{**LATENT, "q_lora_rank": None}) == direct
    gated = [*OF_LATENT, "g_proj 18×11"]
    assert attention("kimi_linear", **LATENT, mla_use_output_gate=True) == gated


def test_a_token_selector_belongs_to_latent_layers_that_do_not_share_one() -> None:
    sparse = {**LATENT, "index_n_heads": 7, "index_head_dim": 8}
    assert attention("deepseek_v32", **sparse) == OF_LATENT + INDEXER
    types = ["full", "shared"]
    found = [attention("glm", index, **sparse, indexer_types=types) for index in range(3)]
    assert found == [OF_LATENT + INDEXER, OF_LATENT, OF_LATENT + INDEXER]
    assert attention("x", **sparse, indexer_types="shared") == OF_LATENT + INDEXER
    for gone in ("index_n_heads", "index_head_dim"):
        assert attention("deepseek_v32", **{**sparse, gone: 0}) == OF_LATENT
    direct = attention("deepseek_v32", **{**sparse, "q_lora_rank": None})
    assert direct[-3] == "indexer.wq_b 56×11 whole"


GROUPED: dict[str, Any] = {
    "q_lora_rank": 23, "o_lora_rank": 4, "o_groups": 7, "index_n_heads": 3, "index_head_dim": 8,
    "compress_ratios": [0, 4, 128],
}  # fmt: skip


def test_grouped_output_has_compressors_by_their_ratio() -> None:
    always = [
        "wq_a 23×11 whole", "wq_b 30×23", "wkv 5×11 whole", "wo_a 28×4", "wo_b 11×28",
    ]  # fmt: skip
    selecting = [
        "compressor 10×11 times 2 whole table", "indexer.wq_b 24×23 whole",
        "indexer.wk 8×11 whole", "indexer.weights_proj 3×11 whole table",
        "indexer.compressor 16×11 times 2 whole table",
    ]  # fmt: skip
    found = [attention("deepseek_v4", index, **GROUPED) for index in range(3)]
    coarse = ["compressor 5×11 times 2 whole table"]
    assert found == [always, always + selecting, always + coarse]
    for ratios in ([0, 4], "044", None):
        assert attention("deepseek_v4", 2, **{**GROUPED, "compress_ratios": ratios}) == always


def test_grouped_output_without_sizes_is_empty() -> None:
    assert attention("deepseek_v4", 0, o_lora_rank="x", compress_ratios=[4]) == [
        "wq_a 0×11 whole", "wq_b 30×0", "wkv 5×11 whole", "wo_a 0×30", "wo_b 11×0",
        "compressor 10×11 times 2 whole table", "indexer.compressor 0×11 times 2 whole table",
    ]  # fmt: skip
    assert attention("deepseek_v4", 0, o_lora_rank=4)[3:] == ["wo_a 4×30", "wo_b 11×4"]
