"""The KV pool that vLLM asks for when it starts: its own arithmetic, in whole blocks (pure).

vLLM refuses to start unless one request of ``max_model_len`` fits beside the block that it keeps
for itself (``v1/core/kv_cache_utils.py``). Layers of one kind are put into groups of equal size,
padded where they do not divide; every group takes blocks of the same size from one pool.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelium.analysis.architecture import kv_layout
from modelium.analysis.memory.kv_cache import (
    DEFAULT_CONTEXT,
    DEFAULT_SEQUENCES,
    TYPICAL_TOKENS,
    kv_bytes,
    kv_unit,
    unit_bytes,
)
from modelium.models import KVLayout, ModelProfile

GPU_BLOCKS = (16, 32, 64)
"""Tokens per block: vLLM's default, and what some attention kernels need instead."""
CPU_BLOCKS = (128,)
"""The default of CPU builds."""
PADDING = 1.5
"""Kinds whose numbers of layers differ by less than this are padded to the larger number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolShape:
    """What the pool of one engine depends on, beside the model."""

    tensor_parallel: int = 1
    in_flight_tokens: int = 0
    """Tokens that are scheduled and not yet settled: the batches that overlap, at their largest.
    Layers with a sliding window hold them beside the window."""
    blocks: tuple[int, ...] = GPU_BLOCKS
    """Tokens per block that the engine may choose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """Layers that allocate alike."""

    layers: int
    page: int
    """Bytes of one layer's part of a block."""
    pages: int
    """Pages that one request takes in one layer."""


def pool_bytes(
    profile: ModelProfile,
    shape: PoolShape,
    *,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
) -> tuple[int, int]:
    """Return the bytes of the planned pool, and of the smallest that the engine starts with.

    The plan is one sequence of full length or many typical ones, whichever is more.
    """
    length = max_model_len or profile.context_length or DEFAULT_CONTEXT
    one, block = request_bytes(profile, shape, length, dtype=dtype, kv_dtype=kv_dtype)
    typical = kv_bytes(
        profile, min(length, TYPICAL_TOKENS), tensor_parallel=shape.tensor_parallel, dtype=dtype,
        kv_dtype=kv_dtype,
    )  # fmt: skip
    return max(one, (max_num_seqs or DEFAULT_SEQUENCES) * typical) + block, one + block


def request_bytes(
    profile: ModelProfile,
    shape: PoolShape,
    tokens: int,
    *,
    dtype: str | None = None,
    kv_dtype: str | None = None,
) -> tuple[int, int]:
    """Return the bytes per device that a request of ``tokens`` takes, and those of one block."""
    layout = profile.kv
    if layout is None:
        return 0, 0
    unit = kv_unit(kv_dtype, unit_bytes(dtype))
    return max((_request(layout, shape, tokens, unit, block) for block in shape.blocks), key=sum)


def _request(
    layout: KVLayout, shape: PoolShape, tokens: int, unit: float, block_tokens: int
) -> tuple[int, int]:
    kinds = _kinds(layout, shape, tokens, unit, block_tokens)
    if not kinds:
        return 0, 0
    size = min(kind.layers for kind in kinds)
    most = max(kind.layers for kind in kinds)
    if most < PADDING * size:
        size = most
    block = size * max(kind.page for kind in kinds)
    return block * sum(-(-kind.layers // size) * kind.pages for kind in kinds), block


def _kinds(layout: KVLayout, shape: PoolShape, tokens: int, unit: float, block: int) -> list[_Kind]:
    degree = shape.tensor_parallel
    full = kv_layout.per_layer_token(layout, tensor_parallel=degree) * unit
    full += layout.index_bytes
    local = kv_layout.per_layer_token(layout, tensor_parallel=degree, sliding=True) * unit
    state = 0
    if layout.state_layers:
        whole = layout.state_bytes or int(layout.state_elements * unit)
        state = -(-whole // (layout.state_layers * degree))
    growing = full if layout.full_layers else local if layout.sliding_layers else 0
    if state and growing:
        # Attention gets blocks of as many tokens as fill the page of a state.
        block = max(block, -(-state // int(block * growing)) * block)
    page = max(
        block * full if layout.full_layers else 0,
        block * local if layout.sliding_layers else 0,
        state,
    )
    found = []
    # A drop may declare attention without heads: its layers keep nothing.
    if layout.full_layers and full:
        pages = -(-tokens // _tokens_per_page(page, block, full))
        found.append(_Kind(layers=layout.full_layers, page=int(page), pages=pages))
    if layout.sliding_layers and local:
        window = (layout.sliding_window or tokens) - 1 + shape.in_flight_tokens
        # The window may begin within a block.
        pages = -(-min(window, tokens) // _tokens_per_page(page, block, local)) + 1
        found.append(_Kind(layers=layout.sliding_layers, page=int(page), pages=pages))
    if state:
        found.append(_Kind(layers=layout.state_layers, page=int(page), pages=layout.state_copies))
    return found


def _tokens_per_page(page: float, block: int, per_token: float) -> int:
    """Return the tokens in ``page``: blocks of the narrower kind grow where they divide it."""
    own = block * per_token
    return block * int(page // own) if page % own == 0 else block
