"""Reads a transformers ``config.json`` into one structure, whatever key names its family uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelium.analysis.architecture.families import NESTED_LLAMA, TIED_BY_DEFAULT, family_defaults
from modelium.analysis.architecture.layer_kinds import LayerKind, layer_kinds
from modelium.analysis.architecture.numbers import integers, number, section

_TEXT_KEYS = ("text_config", "llm_config", "language_config", "language_model", "thinker_config")
MAX_LAYERS = 2048


def text_section(config: dict[str, Any]) -> dict[str, Any]:
    """Return the section that describes the language model, or ``config`` if there is none."""
    for _ in range(3):
        nested = section(config, *_TEXT_KEYS)
        if not nested:
            return config
        if nested.get("model_type") == "llama" and "hidden_size" not in nested:
            nested = {**NESTED_LLAMA, **nested}
        config = {**_inherited(config), **nested}
    return config


def _inherited(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that nested sections inherit from the outer one."""
    # tie_word_embeddings belongs to the model with the output layer; quantization and dtype apply
    # to the whole file.
    names = ("torch_dtype", "dtype", "tie_word_embeddings", "quantization_config", "vocab_size")
    return {name: config[name] for name in names if name in config}


@dataclass(frozen=True, kw_only=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek V2, arXiv:2405.04434)."""

    kv_rank: int
    q_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """Mixture of experts."""

    count: int
    active: int
    intermediate: int
    shared_intermediate: int
    """Total width of the experts that are always active; 0: none."""
    layers: frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The language model of a configuration. Sizes in elements; 0 if the model has no such part."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    positions: int
    tied: bool
    kinds: tuple[LayerKind, ...]
    window: int | None
    latent: Latent | None
    experts: Experts | None
    raw: dict[str, Any]


def read_text(config: dict[str, Any]) -> Text:
    """Return the language model that ``config`` (the whole file) describes."""
    raw = text_section(config)
    family = str(raw.get("model_type") or config.get("model_type") or "")
    raw = {**family_defaults(family), **{k: v for k, v in raw.items() if v is not None}}
    attention = section(raw, "attn_config", "attention_config")
    layers = min(_layers(raw), MAX_LAYERS)
    hidden = number(raw, "hidden_size", "n_embd", "d_model", "model_dim") or 0
    heads = (
        number(
            raw, "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"
        )
        or 0
    )
    head_dim = number(raw, "head_dim", "kv_channels", "attention_head_dim", "d_kv") or (
        hidden // heads if heads else 0
    )
    latent = read_latent(raw)
    kinds = layer_kinds(raw, family, layers)
    return Text(
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(raw, attention, family, heads),
        head_dim=head_dim,
        intermediate=_intermediate(raw, hidden),
        vocabulary=number(raw, "padded_vocab_size", "vocab_size") or 0,
        positions=_positions(raw),
        tied=_tied(raw, config, family),
        kinds=kinds,
        window=number(raw, "sliding_window", "window_size", "sliding_window_size"),
        latent=latent,
        experts=read_experts(raw, family, layers),
        raw=raw,
    )


def _layers(raw: Mapping[str, Any]) -> int:
    found = number(raw, "num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
    if found is None:
        pattern = raw.get("hybrid_override_pattern") or raw.get("layers_block_type")
        found = len(pattern) if isinstance(pattern, str | list) else 0
    return found


def _tied(raw: Mapping[str, Any], config: Mapping[str, Any], family: str) -> bool:
    for part in (raw, config):
        value = part.get("tie_word_embeddings")
        if isinstance(value, bool):
            return value
    return family in TIED_BY_DEFAULT


def _kv_heads(raw: Mapping[str, Any], attention: Mapping[str, Any], family: str, heads: int) -> int:
    grouped = number(raw, "multi_query_group_num") if raw.get("multi_query_attention") else None
    if grouped:
        return grouped
    if raw.get("multi_query") is True and not raw.get("new_decoder_architecture"):
        return 1
    return (
        number(raw, "num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads")
        or number(attention, "kv_n_heads")
        or heads
    )


def _intermediate(raw: Mapping[str, Any], hidden: int) -> int:
    found = number(
        raw, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff",
        "decoder_ffn_dim", "encoder_ffn_dim", "hidden_dim",
    ) or number(section(raw, "ffn_config"), "ffn_hidden_size")  # fmt: skip
    if found:
        return found
    ratio = number(raw, "expansion_ratio", "mlp_ratio") or 4
    return ratio * hidden


def _positions(raw: Mapping[str, Any]) -> int:
    return (
        number(
            raw, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx",
            "max_sequence_length", "model_max_length", "max_target_positions",
        )
        or 0
    )  # fmt: skip


def read_latent(raw: Mapping[str, Any]) -> Latent | None:
    """Return the dimensions of latent attention; ``None``: the model does not use it."""
    rank = number(raw, "kv_lora_rank")
    if not rank:
        return None
    rope = number(raw, "qk_rope_head_dim") or 0
    nope = number(raw, "qk_nope_head_dim") or 0
    return Latent(
        kv_rank=rank,
        q_rank=number(raw, "q_lora_rank") or 0,
        nope_dim=nope,
        rope_dim=rope,
        value_dim=number(raw, "v_head_dim") or nope,
    )


def read_experts(raw: Mapping[str, Any], family: str, layers: int) -> Experts | None:
    """Return the mixture of experts; ``None``: the model has none."""
    ffn = section(raw, "ffn_config")
    count = number(
        raw, "n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"
    ) or number(ffn, "moe_num_experts")
    if not count or count < 2:
        return None
    width = number(
        raw, "moe_intermediate_size", "expert_dim", "moe_ffn_hidden_size"
    ) or _intermediate(raw, number(raw, "hidden_size", "d_model") or 0)
    shared = number(raw, "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
    if shared is None:
        shared = (number(raw, "n_shared_experts", "num_shared_experts") or 0) * width
        if family.startswith("llama4"):
            shared = width
    return Experts(
        count=count,
        active=number(raw, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k")
        or number(ffn, "moe_top_k")
        or 2,
        intermediate=width,
        shared_intermediate=shared,
        layers=_expert_layers(raw, layers),
    )


def _expert_layers(raw: Mapping[str, Any], layers: int) -> frozenset[int]:
    named = raw.get("moe_layers")
    if isinstance(named, list) and named:
        return frozenset(i for i in integers(named) if 0 <= i < layers)
    kinds = raw.get("mlp_layer_types")
    if isinstance(kinds, list) and kinds:
        return frozenset(i for i, kind in enumerate(kinds[:layers]) if kind == "sparse")
    pattern = raw.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        return frozenset(i for i, kind in enumerate(pattern[:layers]) if kind == "E")
    blocks = raw.get("layers_block_type")
    if isinstance(blocks, list) and "moe" in blocks:
        return frozenset(i for i, kind in enumerate(blocks[:layers]) if kind == "moe")
    dense = number(raw, "first_k_dense_replace", "moe_first_k_dense") or 0
    step = number(raw, "interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq",
                  "expert_layer_period") or 1  # fmt: skip
    offset = number(raw, "expert_layer_offset")
    only_dense = integers(raw.get("mlp_only_layers"))
    if offset is None:
        offset = 0 if "moe_layer_freq" in raw else step - 1
    return frozenset(
        i for i in range(dense, layers) if i % step == offset % step and i not in only_dense
    )
