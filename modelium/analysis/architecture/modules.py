"""The weight matrices that a text configuration implies, module by module.

Names follow those in checkpoints, so that exclusion lists of quantizers can be applied to them.
A model is described by its parts (attention, feed-forward, experts, state layers), not by its
family; the family decides only what configurations do not state.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelium.analysis.architecture.attention import attention_modules
from modelium.analysis.architecture.hf_config import Experts, Text
from modelium.analysis.architecture.matrices import (
    ENCODERS,
    FOUR_NORMS,
    LEARNED_POSITIONS,
    PLAIN_MLP,
    Module,
    biased,
    vector,
)
from modelium.analysis.architecture.numbers import number
from modelium.analysis.architecture.state_layers import mamba_modules, state_modules

VOCABULARY_STEP = 64
"""vLLM pads the vocabulary to a multiple of this (DEFAULT_VOCAB_PADDING_SIZE)."""


def text_modules(text: Text, *, head: bool) -> Iterator[Module]:
    """Yield all matrices of the language model; ``head``: with the output layer unless tied."""
    raw = text.raw
    vocabulary = -(-text.vocabulary // VOCABULARY_STEP) * VOCABULARY_STEP
    width = number(raw, "word_embed_proj_dim", "embedding_size") or text.hidden
    yield Module(name="model.embed_tokens", rows=vocabulary, columns=width, linear=False)
    if width != text.hidden:
        yield Module(name="model.project_in", rows=text.hidden, columns=width, count=2, split=False)
    if text.family in LEARNED_POSITIONS:
        yield Module(
            name="model.embed_positions", rows=text.positions, columns=text.hidden, split=False,
            linear=False,
        )  # fmt: skip
    if head and not text.tied:
        bias = vocabulary if text.family == "phi" or raw.get("lm_head_bias") else 0
        yield Module(name="lm_head", rows=vocabulary, columns=text.hidden, bias=bias)
    if text.family in ENCODERS:
        types = number(raw, "type_vocab_size") or 0
        yield vector("embeddings.token_type", types * text.hidden)
        if text.family in {"bert", "electra", "albert", "mpnet"} and not head:
            yield Module(
                name="pooler.dense", rows=text.hidden, columns=text.hidden, bias=text.hidden,
                split=False,
            )  # fmt: skip
    per_layer = number(raw, "hidden_size_per_layer_input")
    if per_layer:
        inner = number(raw, "vocab_size_per_layer_input") or text.vocabulary
        yield Module(
            name="model.embed_tokens_per_layer", rows=inner, columns=per_layer * text.layers,
            linear=False,
        )  # fmt: skip
        yield Module(
            name="model.per_layer_model_projection", rows=per_layer * text.layers,
            columns=text.hidden, split=False,
        )  # fmt: skip
    for index in range(text.layers):
        yield from layer_modules(text, index)
        if per_layer:
            yield Module(
                name=f"model.layers.{index}.per_layer_projection", rows=per_layer,
                columns=text.hidden, count=2, split=False,
            )  # fmt: skip
    yield vector("model.norm", text.hidden)


def layer_modules(text: Text, index: int) -> Iterator[Module]:
    """Yield the matrices of one decoder layer."""
    prefix = f"model.layers.{index}"
    kind = text.kinds[index]
    norms = 4 if text.family in FOUR_NORMS else 2
    yield vector(f"{prefix}.norms", norms * text.hidden)
    if kind == "state":
        yield from state_modules(text, f"{prefix}.linear_attn")
    elif kind != "none":
        yield from attention_modules(text, f"{prefix}.self_attn", index)
        if "hybrid" in str(text.raw.get("layers_block_type")):
            yield from mamba_modules(text, f"{prefix}.mamba")
    if text.experts and index in text.experts.layers:
        yield from _experts(text, text.experts, f"{prefix}.mlp")
    elif not _only_mixer(text, index):
        width = text.intermediate
        if text.family.startswith("llama4"):
            width = number(text.raw, "intermediate_size_mlp") or width
        yield from _mlp(text, f"{prefix}.mlp", width)


def _only_mixer(text: Text, index: int) -> bool:
    """Return whether the layer is only a mixer (Nemotron-H and Mamba: one block per layer)."""
    pattern = text.raw.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        return pattern[index : index + 1] != "-"
    blocks = text.raw.get("layers_block_type")
    if isinstance(blocks, list) and ("moe" in blocks or "mlp" in blocks):
        return index < len(blocks) and blocks[index] != "mlp"
    return text.family in {"mamba", "mamba2", "falcon_mamba"}


def _gated(text: Text) -> bool:
    if text.family in {"t5", "mt5", "umt5"}:
        return "gated" in str(text.raw.get("feed_forward_proj"))
    return text.family not in PLAIN_MLP


def _mlp(text: Text, prefix: str, width: int) -> Iterator[Module]:
    bias = biased(text, "mlp_bias", "add_bias_linear", "use_mlp_bias")
    names = ("gate_proj", "up_proj") if _gated(text) else ("up_proj",)
    for name in names:
        yield Module(
            name=f"{prefix}.{name}", rows=width, columns=text.hidden, bias=width if bias else 0
        )
    yield Module(
        name=f"{prefix}.down_proj", rows=text.hidden, columns=width, bias=text.hidden if bias else 0
    )


def _experts(text: Text, experts: Experts, prefix: str) -> Iterator[Module]:
    raw = text.raw
    biased = text.family == "gpt_oss"
    inner = number(raw, "routed_expert_hidden_size", "moe_latent_size") or text.hidden
    yield Module(
        name=f"{prefix}.gate", rows=experts.count, columns=text.hidden,
        bias=experts.count if biased or raw.get("topk_method") == "noaux_tc" else 0,
        split=False, linear=False,
    )  # fmt: skip
    if inner != text.hidden:
        yield Module(
            name=f"{prefix}.latent_proj", rows=inner, columns=text.hidden, count=2, split=False
        )
    width = experts.intermediate
    names = ("gate_proj", "up_proj") if _gated(text) else ("up_proj",)
    for name in names:
        yield Module(
            name=f"{prefix}.experts.0.{name}", rows=width, columns=inner, count=experts.count,
            bias=width if biased else 0, expert=True,
        )  # fmt: skip
    yield Module(
        name=f"{prefix}.experts.0.down_proj", rows=inner, columns=width, count=experts.count,
        bias=inner if biased else 0, expert=True,
    )  # fmt: skip
    if experts.shared_intermediate:
        yield from _mlp(text, f"{prefix}.shared_experts", experts.shared_intermediate)
    if "shared_expert_intermediate_size" in raw:
        yield vector(f"{prefix}.shared_expert_gate", text.hidden)
