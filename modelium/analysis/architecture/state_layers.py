"""Weight matrices of layers with constant state: gated linear attention, convolutions, Mamba."""

from __future__ import annotations

from collections.abc import Iterator

from modelium.analysis.architecture.hf_config import Text
from modelium.analysis.architecture.matrices import Module, vector
from modelium.analysis.architecture.numbers import number, section


def state_modules(text: Text, prefix: str) -> Iterator[Module]:
    """Yield the mixer matrices of one layer with constant state."""
    raw, hidden = text.raw, text.hidden
    values = number(raw, "linear_num_value_heads")
    if values:
        keys = number(raw, "linear_num_key_heads") or values
        value = values * (number(raw, "linear_value_head_dim") or 128)
        key = keys * (number(raw, "linear_key_head_dim") or 128)
        kernel = number(raw, "linear_conv_kernel_dim") or 4
        yield Module(name=f"{prefix}.in_proj_qkv", rows=2 * key + value, columns=hidden)
        yield Module(name=f"{prefix}.in_proj_z", rows=value, columns=hidden)
        yield Module(name=f"{prefix}.in_proj_ba", rows=2 * values, columns=hidden)
        yield Module(name=f"{prefix}.conv1d", rows=2 * key + value, columns=kernel, linear=False)
        yield Module(name=f"{prefix}.out_proj", rows=hidden, columns=value)
        return
    linear = section(raw, "linear_attn_config")
    if linear:
        heads = number(linear, "num_heads") or text.heads
        dim = number(linear, "head_dim") or text.head_dim
        kernel = number(linear, "short_conv_kernel_size") or 4
        wide = heads * dim
        yield Module(name=f"{prefix}.qkv_proj", rows=3 * wide, columns=hidden)
        yield Module(name=f"{prefix}.conv1d", rows=3 * wide, columns=kernel, linear=False)
        yield Module(name=f"{prefix}.f_a_proj", rows=dim, columns=hidden, split=False)
        yield Module(name=f"{prefix}.f_b_proj", rows=wide, columns=dim)
        yield Module(name=f"{prefix}.b_proj", rows=heads, columns=hidden)
        if linear.get("use_full_rank_gate"):
            yield Module(name=f"{prefix}.g_proj", rows=wide, columns=hidden)
        else:
            yield Module(name=f"{prefix}.g_a_proj", rows=dim, columns=hidden, split=False)
            yield Module(name=f"{prefix}.g_b_proj", rows=wide, columns=dim)
        yield Module(name=f"{prefix}.o_proj", rows=hidden, columns=wide)
        return
    if "conv" in str(raw.get("layer_types")):
        kernel = number(raw, "conv_L_cache") or 3
        yield Module(name=f"{prefix}.in_proj", rows=3 * hidden, columns=hidden)
        yield Module(name=f"{prefix}.conv", rows=hidden, columns=kernel, linear=False)
        yield Module(name=f"{prefix}.out_proj", rows=hidden, columns=hidden)
        return
    yield from mamba_modules(text, prefix)


def mamba_modules(text: Text, prefix: str) -> Iterator[Module]:
    """Yield the Mamba mixer (1 or 2) of one layer."""
    raw, hidden = text.raw, text.hidden
    states = number(raw, "ssm_state_size", "mamba_d_state", "state_size") or 16
    heads = number(raw, "mamba_num_heads", "mamba_n_heads", "num_heads") or 0
    dim = number(raw, "mamba_head_dim", "mamba_d_head", "head_dim") or 64
    inner = number(raw, "mamba_d_ssm") or heads * dim
    if not inner:
        inner = (number(raw, "mamba_expand", "expand") or 2) * hidden
    groups = number(raw, "n_groups", "mamba_n_groups") or 1
    kernel = number(raw, "conv_kernel", "mamba_d_conv") or 4
    yield Module(name=f"{prefix}.out_proj", rows=hidden, columns=inner)
    if heads:
        mixed = inner + 2 * groups * states
        yield Module(name=f"{prefix}.in_proj", rows=inner + mixed + heads, columns=hidden)
        yield Module(name=f"{prefix}.conv1d", rows=mixed, columns=kernel, bias=mixed, linear=False)
        yield vector(f"{prefix}.rest", inner + 3 * heads)
        return
    rank = number(raw, "mamba_dt_rank", "time_step_rank") or -(-hidden // 16)
    yield Module(name=f"{prefix}.in_proj", rows=2 * inner, columns=hidden)
    yield Module(name=f"{prefix}.conv1d", rows=inner, columns=kernel, bias=inner, linear=False)
    yield Module(name=f"{prefix}.x_proj", rows=rank + 2 * states, columns=inner)
    yield Module(name=f"{prefix}.dt_proj", rows=inner, columns=rank, bias=inner)
    yield Module(name=f"{prefix}.A_log", rows=inner, columns=states, linear=False)
