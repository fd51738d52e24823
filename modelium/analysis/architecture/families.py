"""Defaults of transformers' configuration classes for fields that a file omits."""

from __future__ import annotations

from typing import Any


def family_defaults(family: str) -> dict[str, Any]:
    """Return the sizes that transformers' configuration class of ``family`` defaults to.

    transformers writes only the differences from these defaults into nested sections, so nested
    sections often omit sizes.
    """
    return _DEFAULTS.get(family, {})


def _dense(
    hidden: int, wide: int, layers: int, heads: int, kv_heads: int, vocabulary: int, positions: int,
    head_dim: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    found = {
        "hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "max_position_embeddings": positions,
    }  # fmt: skip
    return found | ({"head_dim": head_dim} if head_dim else {})


_GATED_LINEAR = {
    "full_attention_interval": 4, "head_dim": 256, "attn_output_gate": True,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
}  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": _dense(4096, 14336, 32, 32, 8, 32000, 131072),
    "gemma": _dense(3072, 24576, 28, 16, 16, 256000, 8192, 256),
    "gemma2": {**_dense(2304, 9216, 26, 8, 4, 256000, 8192, 256), "sliding_window": 4096},
    "gemma3_text": {**_dense(2304, 9216, 26, 8, 4, 262208, 131072, 256), "sliding_window": 4096},
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"head_dim": 128},
    "qwen3_next": _GATED_LINEAR,
    "qwen3_5_text": _GATED_LINEAR,
    "qwen3_5_moe_text": _GATED_LINEAR,
    "gpt_oss": {"head_dim": 64},
    "llama4_text": {"head_dim": 128, "interleave_moe_layer_step": 1, "num_experts_per_tok": 1},
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
    "bert": {**_dense(768, 3072, 12, 12, 12, 30522, 512), "type_vocab_size": 2},
    "whisper": {"d_model": 384, "decoder_layers": 4, "encoder_layers": 4, "vocab_size": 51865},
}
NESTED_LLAMA = _dense(4096, 11008, 32, 32, 32, 32000, 2048)
"""For nested sections only; a top-level Llama configuration always states its sizes."""

TIED_BY_DEFAULT = frozenset(
    [
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma3n",
        "gemma3n_text",
        "gemma4",
        "gemma4_text",
        "gpt2",
        "opt",
        "bloom",
        "cohere",
        "cohere2",
        "t5",
        "mt5",
        "bart",
        "mbart",
        "marian",
        "whisper",
        "gpt_bigcode",
        "codegen",
        "starcoder2",
        "bert",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "albert",
        "electra",
        "deberta",
        "deberta-v2",
        "modernbert",
        "mpt",
        "falcon",
    ]
)
"""Families whose ``tie_word_embeddings`` is true if the file omits it. transformers writes only
what differs from its default, which is true unless a family overrides it."""
