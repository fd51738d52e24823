"""The kind of each layer, as families write it."""

from typing import Any

import pytest

from modelium.analysis.architecture.layer_kinds import layer_kinds

LETTERS = {"full": "f", "sliding": "w", "state": "s", "none": "-"}


def kinds(layers: int, family: str = "llama", **raw: Any) -> str:
    """A letter per layer: full, window, state, ``-``."""
    return "".join(LETTERS[kind] for kind in layer_kinds(raw, family, layers))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("full_attention", "f"), ("attention", "f"), ("chunked_attention", "f"), ("full", "f"),
        ("global", "f"), ("hybrid", "f"), ("unheard of", "f"), ("sliding_attention", "w"),
        ("local", "w"), ("sliding", "w"), ("linear_attention", "s"), ("mamba", "s"),
        ("mamba2", "s"), ("conv", "s"), ("recurrent", "s"), ("rwkv", "s"), ("mlp", "-"),
        ("moe", "-"),
    ],
)  # fmt: skip
def test_each_name_is_a_kind(name: str, kind: str) -> None:
    assert kinds(2, layer_types=["sliding", name]) == "w" + kind
    assert kinds(2, layers_block_type=[name, "mamba"]) == kind + "s"


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"layer_types": ["local", "global", "mamba"]}, "wfsff"),  # too short: full
        ({"layer_types": ["local"] * 7}, "wwwww"),  # too long: cut
        ({"layers_block_type": ["mamba", "moe", "attention"]}, "s-fff"),
        ({"hybrid_override_pattern": "M*-EM"}, "sf--s"),
        ({"block_types": ["recurrent", "recurrent", "attention"]}, "ssfss"),  # repeated
        ({"layer_types": [], "block_types": ["mamba", "full"]}, "sfsfs"),
        ({"layer_types": 3, "hybrid_override_pattern": "MM"}, "ssfff"),
        ({"layer_types": ["local"], "hybrid_override_pattern": "MMMMM"}, "wffff"),
        ({"linear_attn_config": {"kda_layers": [1, 2, 5, 6, "3"]}}, "ssffs"),  # from one
        ({"linear_attn_config": {"kda_layers": []}, "full_attention_interval": 2}, "sfsfs"),
        ({"linear_attn_config": {"kda_layers": 3}}, "fffff"),
        ({"full_attention_interval": 2}, "sfsfs"),
        ({"full_attention_interval": 3}, "ssfss"),
        ({"full_attention_interval": 1}, "fffff"),
        ({"attn_layer_period": 3, "attn_layer_offset": 1}, "sfssf"),
        ({"attn_layer_period": 3, "attn_layer_offset": 0}, "fssfs"),
        ({"attn_layer_period": 3, "attn_layer_offset": 4}, "sfssf"),  # beyond one period
        ({"attn_layer_period": 9}, "sssss"),
    ],
)
def test_layers_are_named_or_counted(raw: dict[str, Any], found: str) -> None:
    assert kinds(5, **raw) == found


@pytest.mark.parametrize(
    ("family", "raw", "found"),
    [
        ("llama", {}, "fffffff"),
        ("llama", {"sliding_window": 0}, "fffffff"),
        ("llama", {"sliding_window": 4, "use_sliding_window": False}, "fffffff"),
        ("llama", {"sliding_window": 4}, "wwwwwww"),
        ("llama", {"sliding_window_size": 4}, "wwwwwww"),
        # The first max_window_layers layers attend to everything.
        ("qwen2", {"sliding_window": 4, "use_sliding_window": True}, "wwwwwww"),
        (
            "qwen2",
            {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 3},
            "fffwwww",
        ),
        ("llama", {"sliding_window": 4, "sliding_window_pattern": 3}, "wwfwwfw"),
        ("llama", {"sliding_window": 4, "_sliding_window_pattern": 4}, "wwwfwww"),
        ("llama", {"sliding_window": 4, "sliding_window_pattern": 1}, "fffffff"),
        ("gemma2", {"sliding_window": 4}, "wfwfwfw"),
        ("gemma2", {"sliding_window": 4, "sliding_window_pattern": 3}, "wwfwwfw"),
        ("gpt_oss", {"sliding_window": 4}, "wfwfwfw"),
        ("cohere2", {"sliding_window": 4}, "wwwfwww"),
        ("exaone4", {"sliding_window": 4}, "wwwfwww"),
        ("gemma3", {"sliding_window": 4}, "wwwwwfw"),
        ("gemma3_text", {"sliding_window": 4}, "wwwwwfw"),
        ("gemma3_text", {"sliding_window": 4, "sliding_window_pattern": 2}, "wfwfwfw"),
        ("gemma3_text", {"sliding_window": 4, "sliding_window_pattern": 0}, "wwwwwww"),
        ("gemma3_text", {}, "fffffff"),
        ("mamba", {}, "sssssss"),
        ("mamba2", {"sliding_window": 4}, "sssssss"),
        ("falcon_mamba", {}, "sssssss"),
        ("rwkv", {}, "sssssss"),
    ],
)
def test_windows_and_states_follow_the_family(family: str, raw: dict[str, Any], found: str) -> None:
    assert kinds(7, family, **raw) == found
