"""Weight matrices of attention: grouped, latent, sparse, with low-rank output."""

from __future__ import annotations

from collections.abc import Iterator

from modelium.analysis.architecture.hf_config import Latent, Text
from modelium.analysis.architecture.matrices import QKV_BIASED, Module, biased
from modelium.analysis.architecture.numbers import number


def attention_modules(text: Text, prefix: str, index: int) -> Iterator[Module]:
    """Yield the attention matrices of layer ``index``."""
    raw = text.raw
    if "o_lora_rank" in raw:
        yield from _grouped_output(text, prefix, index)
        return
    if text.latent:
        yield from _latent(text, text.latent, prefix, index)
        return
    dim, kv_heads = text.head_dim, text.kv_heads
    full = text.kinds[index] == "full"
    wide = number(raw, "global_head_dim")
    if wide and full and "sliding" in text.kinds:
        dim = wide
        kv_heads = number(raw, "num_global_key_value_heads") or kv_heads
    value_dim = number(raw, "v_head_dim") or dim
    qkv = text.family in QKV_BIASED or biased(
        text,
        "attention_bias",
        "qkv_bias",
        "add_qkv_bias",
        "use_qkv_bias",
        "add_bias_linear",
        "bias",
    )
    out = text.family == "gpt_oss" or biased(text, "attention_out_bias", "add_bias_linear")
    if raw.get("attention_bias") is True and text.family not in QKV_BIASED:
        out = True
    gate = 2 if raw.get("attn_output_gate") else 1
    query = text.heads * dim
    yield Module(
        name=f"{prefix}.q_proj", rows=query * gate, columns=text.hidden,
        bias=query * gate if qkv else 0,
    )  # fmt: skip
    shared = number(raw, "num_kv_shared_layers") or 0
    if index < text.layers - shared:
        widths = {"k_proj": dim, "v_proj": value_dim}
        if raw.get("attention_k_eq_v") and full:
            del widths["v_proj"]
        for name, width in widths.items():
            yield Module(
                name=f"{prefix}.{name}", rows=kv_heads * width, columns=text.hidden,
                bias=kv_heads * width if qkv else 0,
            )  # fmt: skip
    yield Module(
        name=f"{prefix}.o_proj", rows=text.hidden, columns=text.heads * value_dim,
        bias=text.hidden if out else 0,
    )  # fmt: skip


def _latent(text: Text, latent: Latent, prefix: str, index: int) -> Iterator[Module]:
    query = text.heads * (latent.nope_dim + latent.rope_dim)
    if latent.q_rank:
        yield Module(
            name=f"{prefix}.q_a_proj", rows=latent.q_rank, columns=text.hidden, split=False
        )
        yield Module(name=f"{prefix}.q_b_proj", rows=query, columns=latent.q_rank)
    else:
        yield Module(name=f"{prefix}.q_proj", rows=query, columns=text.hidden)
    yield Module(
        name=f"{prefix}.kv_a_proj_with_mqa", rows=latent.kv_rank + latent.rope_dim,
        columns=text.hidden, split=False,
    )  # fmt: skip
    yield Module(
        name=f"{prefix}.kv_b_proj", rows=text.heads * (latent.nope_dim + latent.value_dim),
        columns=latent.kv_rank,
    )  # fmt: skip
    yield Module(name=f"{prefix}.o_proj", rows=text.hidden, columns=text.heads * latent.value_dim)
    if text.raw.get("mla_use_output_gate"):
        yield Module(
            name=f"{prefix}.g_proj", rows=text.heads * latent.value_dim, columns=text.hidden
        )
    yield from _indexer(text, prefix, index, latent.q_rank or text.hidden)


def _indexer(text: Text, prefix: str, index: int, query_rank: int) -> Iterator[Module]:
    """Yield the token selector of sparse attention (DeepSeek V3.2)."""
    heads, dim = number(text.raw, "index_n_heads"), number(text.raw, "index_head_dim")
    types = text.raw.get("indexer_types")
    if isinstance(types, list) and index < len(types) and types[index] == "shared":
        return
    if heads and dim:
        name = f"{prefix}.indexer"
        yield Module(name=f"{name}.wq_b", rows=heads * dim, columns=query_rank, split=False)
        yield Module(name=f"{name}.wk", rows=dim, columns=text.hidden, split=False)
        yield Module(
            name=f"{name}.weights_proj", rows=heads, columns=text.hidden, split=False, linear=False
        )


def _grouped_output(text: Text, prefix: str, index: int) -> Iterator[Module]:
    """Yield low-rank queries and grouped low-rank output over one shared KV head (DeepSeek V4)."""
    raw = text.raw
    rank, out_rank = number(raw, "q_lora_rank") or 0, number(raw, "o_lora_rank") or 0
    groups = number(raw, "o_groups") or 1
    wide = text.heads * text.head_dim
    yield Module(name=f"{prefix}.wq_a", rows=rank, columns=text.hidden, split=False)
    yield Module(name=f"{prefix}.wq_b", rows=wide, columns=rank)
    yield Module(name=f"{prefix}.wkv", rows=text.head_dim, columns=text.hidden, split=False)
    yield Module(name=f"{prefix}.wo_a", rows=groups * out_rank, columns=wide // groups)
    yield Module(name=f"{prefix}.wo_b", rows=text.hidden, columns=groups * out_rank)
    ratios = raw.get("compress_ratios")
    ratio = ratios[index] if isinstance(ratios, list) and index < len(ratios) else 0
    if ratio:
        twice = 2 if ratio == 4 else 1
        yield Module(
            name=f"{prefix}.compressor", rows=twice * text.head_dim, columns=text.hidden, count=2,
            split=False, linear=False,
        )  # fmt: skip
    if ratio == 4:
        dim = number(raw, "index_head_dim") or 0
        yield from _indexer(text, prefix, index, rank)
        yield Module(
            name=f"{prefix}.indexer.compressor", rows=2 * dim, columns=text.hidden, count=2,
            split=False, linear=False,
        )  # fmt: skip
