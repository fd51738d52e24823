"""What a configuration may leave out."""

from typing import Any

import pytest

from modelium.analysis.architecture.families import family_defaults
from modelium.analysis.architecture.hf_config import read_text


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        # Layers, hidden, feed-forward, heads, KV heads, head dimension, vocabulary, positions.
        ("mistral", (32, 4096, 14336, 32, 8, 128, 32000, 131072)),
        ("gemma", (28, 3072, 24576, 16, 16, 256, 256000, 8192)),
        ("gemma2", (26, 2304, 9216, 8, 4, 256, 256000, 8192)),
        ("gemma3_text", (26, 2304, 9216, 8, 4, 256, 262208, 131072)),
        ("gpt2", (12, 768, 3072, 12, 12, 64, 50257, 1024)),
        ("bert", (12, 768, 3072, 12, 12, 64, 30522, 512)),
        ("whisper", (4, 384, 1536, 0, 0, 0, 51865, 0)),
        ("unheard of", (0, 0, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_a_family_has_the_sizes_of_its_smallest_or_first_model(
    family: str, sizes: tuple[int, ...]
) -> None:
    found = read_text({"model_type": family})
    assert sizes == (
        found.layers, found.hidden, found.intermediate, found.heads, found.kv_heads,
        found.head_dim, found.vocabulary, found.positions,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        *((family, "head_dim", 128) for family in ("qwen3", "qwen3_moe", "llama4_text")),
        ("gpt_oss", "head_dim", 64),
        ("llama4_text", "num_experts_per_tok", 1),
        ("llama4_text", "interleave_moe_layer_step", 1),
        ("gemma2", "sliding_window", 4096),
        ("gemma3_text", "sliding_window", 4096),
        ("bert", "type_vocab_size", 2),
        *(
            (family, name, value)
            for family in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
            for name, value in {
                "full_attention_interval": 4, "head_dim": 256, "attn_output_gate": True,
                "linear_num_key_heads": 16, "linear_num_value_heads": 32,
                "linear_key_head_dim": 128, "linear_value_head_dim": 128,
                "linear_conv_kernel_dim": 4,
            }.items()
        ),
    ],
)  # fmt: skip
def test_a_family_has_settings_of_its_own(family: str, name: str, value: Any) -> None:
    assert family_defaults(family)[name] == value
