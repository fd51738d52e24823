"""Whole blocks of the KV pool, by hand."""

from typing import Any

import pytest

from modelium.analysis.memory.vllm_pool import PoolShape, pool_bytes, request_bytes
from modelium.models import KVLayout
from tests.modelium.analysis.memory.profiles import HEADS, profile_of

TOKEN = 6 * 9 * 2
"""Bytes of a token in one layer of `HEADS`."""
WIDER = KVLayout(
    full_layers=2, sliding_layers=2, sliding_window=40, kv_heads=2, key_dim=4, value_dim=4,
    sliding_kv_heads=1,
)  # fmt: skip
"""32 bytes for a token of a full layer, 16 of a sliding one."""


def request(
    layout: KVLayout | None, tokens: int, *, degree: int = 1, in_flight: int = 0,
    blocks: tuple[int, ...] = (16,), **settings: Any,
) -> tuple[int, int]:  # fmt: skip
    shape = PoolShape(tensor_parallel=degree, in_flight_tokens=in_flight, blocks=blocks)
    return request_bytes(profile_of(kv=layout), shape, tokens, **settings)


def heads(**changes: Any) -> KVLayout:
    return HEADS.model_copy(update=changes)


@pytest.mark.parametrize(
    ("tokens", "settings", "pages", "page"),
    [
        (1, {}, 1, 16 * TOKEN),
        (16, {}, 1, 16 * TOKEN),
        (17, {}, 2, 16 * TOKEN),
        (33, {"dtype": "float32"}, 3, 16 * 2 * TOKEN),
        (33, {"kv_dtype": "fp8"}, 3, 16 * TOKEN // 2),
        (33, {"kv_dtype": "q8_0"}, 3, 918),  # 17/16 of it
        (33, {"degree": 4}, 3, 16 * 2 * 9 * 2),
        (33, {"blocks": (48,)}, 1, 48 * TOKEN),
        (33, {"blocks": (16, 64, 32)}, 1, 64 * TOKEN),  # what takes most, with its block
    ],
)
def test_a_request_takes_whole_blocks(
    tokens: int, settings: dict[str, Any], pages: int, page: int
) -> None:
    assert request(HEADS, tokens, **settings) == (7 * page * pages, 7 * page)


def test_a_token_selectors_keys_take_their_part() -> None:
    page = 16 * (TOKEN + 11)
    assert request(heads(index_bytes=11), 33) == (7 * page * 3, 7 * page)
    alone = KVLayout(full_layers=7, index_bytes=11)
    assert request(alone, 33) == (7 * 16 * 11 * 3, 7 * 16 * 11)


@pytest.mark.parametrize(
    ("full", "sliding", "size", "groups"),
    [
        (2, 2, 2, (1, 1)),
        (2, 3, 2, (1, 2)),  # half as many again: in groups of the smaller
        (3, 4, 4, (1, 1)),  # fewer than that: padded
        (4, 3, 4, (1, 1)),
        (5, 2, 2, (3, 1)),
        (0, 3, 3, (0, 1)),
    ],
)
def test_layers_of_two_kinds_share_blocks(
    full: int, sliding: int, size: int, groups: tuple[int, int]
) -> None:
    layout = heads(full_layers=full, sliding_layers=sliding, sliding_window=40)
    block = size * 16 * TOKEN
    # 100 tokens are 7 pages; 39 of a window are 3, and one more where it begins within a page.
    assert request(layout, 100) == (block * (groups[0] * 7 + groups[1] * 4), block)


@pytest.mark.parametrize(
    ("window", "in_flight", "tokens", "pages"),
    [
        (40, 0, 100, 4),
        (33, 0, 100, 3),
        (34, 0, 100, 4),
        (40, 9, 100, 4),
        (40, 10, 100, 5),
        (40, 200, 100, 8),
        (40, 0, 16, 2),
        (40, 0, 17, 3),
        (None, 0, 17, 2),
        (None, 1, 17, 3),
    ],
)
def test_a_window_holds_the_tokens_in_flight_beside_it(
    window: int | None, in_flight: int, tokens: int, pages: int
) -> None:
    layout = heads(full_layers=0, sliding_layers=3, sliding_window=window)
    block = 3 * 16 * TOKEN
    assert request(layout, tokens, in_flight=in_flight) == (block * pages, block)


@pytest.mark.parametrize(
    ("sliding", "page", "pages"),
    [
        ({}, 512, 7 + 3),  # 32 tokens of a narrower layer in a page of 16
        ({"sliding_key_dim": 3}, 512, 7 + 4),  # does not divide
        ({"sliding_kv_heads": 2}, 512, 7 + 4),
        ({"sliding_kv_heads": 4}, 1024, 4 + 4),  # the full layer is the narrower one
        ({"sliding_kv_heads": 3}, 768, 7 + 4),
    ],
)
def test_the_narrower_kind_has_more_tokens_in_a_page_where_they_divide_it(
    sliding: dict[str, int], page: int, pages: int
) -> None:
    layout = WIDER.model_copy(update=sliding)
    assert request(layout, 100) == (2 * page * pages, 2 * page)


@pytest.mark.parametrize(
    ("changes", "degree", "tokens_in_page", "page"),
    [
        ({"state_bytes": 3 * 1000}, 1, 16, 16 * TOKEN),
        ({"state_bytes": 3 * 16 * TOKEN}, 1, 16, 16 * TOKEN),
        ({"state_bytes": 3 * 16 * TOKEN + 1}, 1, 32, 32 * TOKEN),
        ({"state_bytes": 3 * 5000}, 1, 48, 48 * TOKEN),
        # 6 heads on 4 devices are 2 each; 5000 bytes of state are 1250.
        ({"state_bytes": 3 * 5000}, 4, 48, 48 * 36),
        ({"state_elements": 3 * 1800}, 1, 48, 48 * TOKEN),
        ({"state_elements": 3 * 1728}, 1, 32, 32 * TOKEN),
        ({"state_elements": 3 * 1728, "state_bytes": 3}, 1, 16, 16 * TOKEN),
    ],
)
def test_pages_are_as_large_as_a_state(
    changes: dict[str, int], degree: int, tokens_in_page: int, page: int
) -> None:
    layout = heads(full_layers=2, state_layers=3, state_copies=5, **changes)
    pages = -(-100 // tokens_in_page)
    # Three layers of state in groups of two, five copies each.
    assert request(layout, 100, degree=degree) == (2 * page * (pages + 2 * 5), 2 * page)


def test_pages_of_windows_are_as_large_as_a_state_too() -> None:
    layout = WIDER.model_copy(
        update={"full_layers": 0, "state_layers": 2, "state_bytes": 2 * 300, "state_copies": 3}
    )
    # Two blocks of 16 tokens with 16 bytes hold 300 bytes.
    assert request(layout, 100) == (2 * 512 * (3 + 3), 2 * 512)


@pytest.mark.parametrize(
    ("changes", "degree", "page"),
    [
        ({"state_bytes": 3 * 1000}, 1, 1000),
        ({"state_bytes": 3 * 1000 + 1}, 1, 1001),
        ({"state_bytes": 3 * 1000}, 3, 334),
        ({"state_elements": 3 * 1000}, 1, 2000),
    ],
)
def test_states_alone_are_pages(changes: dict[str, int], degree: int, page: int) -> None:
    layout = KVLayout(state_layers=3, **changes)
    assert request(layout, 100, degree=degree) == (3 * page * 2, 3 * page)


def test_without_a_cache_there_is_no_pool() -> None:
    assert request(None, 100) == request(KVLayout(), 100) == (0, 0)
    assert pool_bytes(profile_of(kv=None), PoolShape()) == (0, 0)


LAYERS = 7 * TOKEN


@pytest.mark.parametrize(
    ("context", "length", "sequences", "planned", "least"),
    [
        (3000, None, 1, 3008 * LAYERS, 3008 * LAYERS),
        (3000, None, 2, 3008 * LAYERS, 3008 * LAYERS),
        (3000, None, 3, 3 * 1024 * LAYERS, 3008 * LAYERS),
        (3000, None, None, 16 * 1024 * LAYERS, 3008 * LAYERS),
        (None, None, 1, 2048 * LAYERS, 2048 * LAYERS),
        (3000, 1025, 1, 1040 * LAYERS, 1040 * LAYERS),
        (3000, 500, 3, 3 * 500 * LAYERS, 512 * LAYERS),
        (3000, 500, None, 16 * 500 * LAYERS, 512 * LAYERS),
    ],
)
def test_a_pool_is_for_one_long_sequence_or_many_typical_ones(
    context: int | None, length: int | None, sequences: int | None, planned: int, least: int
) -> None:
    block = 16 * LAYERS
    found = pool_bytes(
        profile_of(context_length=context), PoolShape(blocks=(16,)), max_model_len=length,
        max_num_seqs=sequences,
    )  # fmt: skip
    assert found == (planned + block, least + block)


def test_typical_sequences_are_split_and_stored_as_the_long_one() -> None:
    shape = PoolShape(tensor_parallel=3, blocks=(16,))
    settings: dict[str, Any] = {"dtype": "float32", "max_model_len": 2000}
    wide = 7 * 2 * 9 * 4
    assert pool_bytes(profile_of(), shape, **settings) == (
        16 * 1024 * wide + 16 * wide,
        2000 * wide + 16 * wide,
    )
    narrow = wide // 4
    assert pool_bytes(profile_of(), shape, kv_dtype="fp8", **settings) == (
        16 * 1024 * narrow + 16 * narrow,
        2000 * narrow + 16 * narrow,
    )
