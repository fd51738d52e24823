"""Elements per token in the KV cache, derived from a configuration.

Formulas: 2 × layers × KV heads × head dimension for attention; kv_lora_rank + qk_rope_head_dim
per layer for latent attention (arXiv:2405.04434, section 2.1); constant state for Mamba
(arXiv:2312.00752, 2405.21060) and gated linear attention (arXiv:2412.06464).
"""

from __future__ import annotations

from modelium.analysis.architecture.hf_config import Text
from modelium.analysis.architecture.numbers import number, section
from modelium.models import KVLayout


def layout_of(text: Text) -> KVLayout | None:
    """Return the cache layout of ``text``; ``None`` for models without a cache (encoders)."""
    full = text.kinds.count("full")
    sliding = text.kinds.count("sliding")
    state = text.kinds.count("state")
    if not (full or sliding or state):
        return None
    found = _attention(text, full=full, sliding=sliding, state=state)
    return _with_state(found, text) if state else found


def _attention(text: Text, *, full: int, sliding: int, state: int) -> KVLayout:
    """Return the layout without the constant state of its ``state`` layers."""
    if text.latent:
        return KVLayout(
            full_layers=full,
            sliding_layers=sliding,
            sliding_window=text.window if sliding else None,
            state_layers=state,
            latent_dim=text.latent.kv_rank + text.latent.rope_dim,
            index_bytes=_index_bytes(text),
        )
    raw = text.raw
    value_dim = number(raw, "v_head_dim") or text.head_dim
    wide = number(raw, "global_head_dim")
    layout = KVLayout(
        full_layers=full,
        sliding_layers=sliding,
        sliding_window=text.window if sliding else None,
        state_layers=state,
        kv_heads=text.kv_heads,
        key_dim=text.head_dim,
        value_dim=value_dim,
    )
    if wide and sliding:
        return layout.model_copy(
            update={
                "kv_heads": number(raw, "num_global_key_value_heads") or text.kv_heads,
                "key_dim": wide,
                "value_dim": wide,
                "sliding_kv_heads": text.kv_heads,
                "sliding_key_dim": text.head_dim,
                "sliding_value_dim": value_dim,
            }
        )
    return layout


def _state(text: Text) -> tuple[int, int]:
    """Return the elements of constant state per layer and sequence: recurrent, convolution."""
    raw = text.raw
    value_heads = number(raw, "linear_num_value_heads")
    if value_heads:
        key_heads = number(raw, "linear_num_key_heads") or value_heads
        key = number(raw, "linear_key_head_dim") or 128
        value = number(raw, "linear_value_head_dim") or 128
        kernel = number(raw, "linear_conv_kernel_dim") or 4
        width = 2 * key_heads * key + value_heads * value
        return value_heads * key * value, width * (kernel - 1)
    linear = section(raw, "linear_attn_config")
    if linear:
        heads = number(linear, "num_heads") or text.heads
        dim = number(linear, "head_dim") or text.head_dim
        kernel = number(linear, "short_conv_kernel_size") or 4
        return heads * dim * dim, 3 * heads * dim * (kernel - 1)
    states = number(raw, "ssm_state_size", "mamba_d_state", "state_size") or 16
    heads = number(raw, "mamba_num_heads", "mamba_n_heads") or 0
    dim = number(raw, "mamba_head_dim", "mamba_d_head") or 64
    inner = heads * dim or (number(raw, "mamba_expand", "expand") or 2) * text.hidden
    groups = number(raw, "n_groups", "mamba_n_groups") or 1
    kernel = number(raw, "conv_kernel", "mamba_d_conv") or 4
    return inner * states, (inner + 2 * groups * states) * (kernel - 1)


def _with_state(layout: KVLayout, text: Text) -> KVLayout:
    """Add the constant state of ``layout``'s state layers."""
    raw = text.raw
    recurrent, convolution = _state(text)
    named = raw.get("mamba_ssm_cache_dtype") or raw.get("mamba_ssm_dtype")
    wide = (
        named == "float32"
        or text.family == "nemotron_h"
        or "linear_num_value_heads" in raw
        or bool(section(raw, "linear_attn_config"))
    )
    return layout.model_copy(
        update={
            "state_elements": layout.state_layers * (recurrent + convolution),
            "state_bytes": layout.state_layers * (recurrent * (4 if wide else 2) + 2 * convolution),
            "state_copies": 2 if "linear_num_value_heads" in raw else 3,
        }
    )


def _index_bytes(text: Text) -> int:
    """Return the bytes per token and layer of a token selector's keys, in fp8 with scales."""
    dim = number(text.raw, "index_head_dim")
    if not dim:
        return 0
    types = text.raw.get("indexer_types")
    own = text.layers
    if isinstance(types, list):
        own -= sum(1 for kind in types[: text.layers] if kind == "shared")
    return -(-(dim + -(-dim // 128) * 4) * own // text.layers)


def per_token(layout: KVLayout) -> int:
    """Return the elements per token over all layers whose cache grows, on one device."""
    return per_sequence(layout, 1)


def per_layer_token(layout: KVLayout, *, tensor_parallel: int = 1, sliding: bool = False) -> int:
    """Return the elements per token of one full (or ``sliding``) layer, on each device."""
    if layout.latent_dim:
        return layout.latent_dim
    heads, key, value = layout.kv_heads, layout.key_dim, layout.value_dim
    if sliding:
        heads = _or(layout.sliding_kv_heads, heads)
        key = _or(layout.sliding_key_dim, key)
        value = _or(layout.sliding_value_dim, value)
    return -(-heads // tensor_parallel) * (key + value)


def _or(value: int | None, fallback: int) -> int:
    return fallback if value is None else value


def per_sequence(layout: KVLayout, tokens: int, *, tensor_parallel: int = 1) -> int:
    """Return the elements of one sequence of ``tokens`` on each of ``tensor_parallel`` devices.

    KV heads are split over the devices, at least one on each; a latent cache is replicated. The
    constant state of Mamba and linear-attention layers comes on top.
    """
    window = min(tokens, layout.sliding_window or tokens)
    full = per_layer_token(layout, tensor_parallel=tensor_parallel)
    sliding = per_layer_token(layout, tensor_parallel=tensor_parallel, sliding=True)
    return layout.full_layers * tokens * full + layout.sliding_layers * window * sliding
