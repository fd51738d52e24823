"""The kind of cache that each layer needs, from the many fields that families express it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from modelium.analysis.architecture.numbers import integers, number, section

LayerKind = Literal["full", "sliding", "state", "none"]

_KINDS: dict[str, LayerKind] = {
    "full_attention": "full", "attention": "full", "chunked_attention": "full", "full": "full",
    "global": "full", "sliding_attention": "sliding", "local": "sliding", "sliding": "sliding",
    "linear_attention": "state", "mamba": "state", "mamba2": "state", "conv": "state",
    "recurrent": "state", "rwkv": "state", "hybrid": "full", "mlp": "none", "moe": "none",
    "M": "state", "*": "full", "-": "none", "E": "none",
}  # fmt: skip


def _named(kinds: Iterable[object], layers: int) -> tuple[LayerKind, ...]:
    found: list[LayerKind] = [_KINDS.get(str(kind), "full") for kind in kinds][:layers]
    rest: list[LayerKind] = ["full"] * (layers - len(found))
    return tuple(found + rest)


def layer_kinds(raw: Mapping[str, Any], family: str, layers: int) -> tuple[LayerKind, ...]:
    """Return the cache of each layer: the full context, a window, constant state or none."""
    for name in ("layer_types", "layers_block_type", "hybrid_override_pattern", "block_types"):
        value = raw.get(name)
        if isinstance(value, list | str) and value:
            if name == "block_types":
                value = [value[i % len(value)] for i in range(layers)]
            return _named(value, layers)
    linear = integers(section(raw, "linear_attn_config").get("kda_layers"))
    if linear:  # Kimi Linear counts from one
        return _windowed(layers, {i for i in range(layers) if i + 1 not in linear}, other="state")
    interval = number(raw, "full_attention_interval", "attn_layer_period")
    if interval:
        offset = number(raw, "attn_layer_offset")
        at = interval - 1 if offset is None else offset
        kinds: list[LayerKind] = ["state"] * layers
        kinds[at % interval :: interval] = ["full"] * len(kinds[at % interval :: interval])
        return tuple(kinds)
    return _windows(raw, family, layers)


def _windows(raw: Mapping[str, Any], family: str, layers: int) -> tuple[LayerKind, ...]:
    if family in {"mamba", "mamba2", "falcon_mamba", "rwkv"}:
        return _windowed(layers, set(), other="state")
    window = number(raw, "sliding_window", "sliding_window_size")
    if not window or raw.get("use_sliding_window") is False:
        return _windowed(layers, set(range(layers)))
    if "use_sliding_window" in raw:
        first = number(raw, "max_window_layers") or 0
        return _windowed(layers, {i for i in range(layers) if i < first})
    pattern = number(raw, "sliding_window_pattern", "_sliding_window_pattern")
    if pattern is None:
        pattern = {"gemma2": 2, "gpt_oss": 2, "cohere2": 4, "exaone4": 4}.get(family)
    if pattern is None and family.startswith("gemma3"):
        pattern = 6
    if not pattern:
        return _windowed(layers, set())
    return _windowed(layers, {i for i in range(layers) if (i + 1) % pattern == 0})


def _windowed(layers: int, full: set[int], other: LayerKind = "sliding") -> tuple[LayerKind, ...]:
    kinds: list[LayerKind] = ["full" if i in full else other for i in range(layers)]
    return tuple(kinds)
