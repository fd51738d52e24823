"""Weight matrices outside the language model: vision and audio encoders, projectors, encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelium.analysis.architecture.hf_config import Text
from modelium.analysis.architecture.matrices import Module
from modelium.analysis.architecture.numbers import number, ratio, section


def _sizes(hidden: int, layers: int, wide: int, patch: int, image: int) -> dict[str, int]:
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": wide,
        "patch_size": patch, "image_size": image,
    }  # fmt: skip


_NAMED_TOWERS = {
    "siglip_large_patch16_384": _sizes(1024, 24, 4096, 16, 384),
    "siglip_so400m_patch14_384": _sizes(1152, 27, 4304, 14, 384),
}
_DEFAULTS = {
    # Defaults of transformers' configuration classes for fields that a file omits.
    "clip_vision_model": _sizes(768, 12, 3072, 32, 224),
    "siglip_vision_model": _sizes(768, 12, 3072, 16, 224),
    "pixtral": _sizes(1024, 24, 4096, 16, 1024),
    "moonvit": _sizes(1152, 27, 4304, 14, 896),
}
_WIDEST = 1024
"""A feed-forward is not wider than this multiple of the hidden size."""
_LEAST_SHUFFLE = 1 / 64
"""Patches along each side are not merged into fewer than this share."""
_GATED = frozenset({"pixtral", "qwen2_5_vl", "gemma4_vision", "aimv2"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Vision:
    """The vision encoder of a configuration."""

    family: str
    hidden: int
    layers: int
    intermediate: int
    patch: int
    image: int
    merge: int
    """Patches along each side that are merged into one token of the language model."""
    frames: int


def read_vision(config: Mapping[str, Any]) -> Vision | None:
    """Return the vision encoder; ``None``: there is none, or its sizes are unknown."""
    found = section(config, "vision_config", "vision_tower_config")
    params = section(found, "params")
    named = _NAMED_TOWERS.get(str(params.get("model_name")), {})
    family = str(found.get("model_type") or "")
    raw = {**_DEFAULTS.get(family, {}), **named, **found}
    hidden = number(raw, "embed_dim", "hidden_size", "vt_hidden_size", "width")
    layers = number(raw, "depth", "num_hidden_layers", "vt_num_hidden_layers", "layers")
    if not hidden or not layers:
        return None
    wide = number(raw, "intermediate_size", "vt_intermediate_size")
    if not wide:
        wide = int(hidden * (ratio(raw.get("mlp_ratio"), most=_WIDEST) or 4))
    patch = number(raw, "patch_size") or 14
    image = _side(raw.get("image_size"))
    merge = number(raw, "spatial_merge_size", "pooling_kernel_size")
    merge = merge or _side(raw.get("merge_kernel_size"))
    tokens = number(config, "mm_tokens_per_image", "image_seq_length")
    if not merge and tokens:
        merge = round((image // patch) / tokens**0.5)
    shuffle = ratio(raw.get("pixel_shuffle_ratio"), most=1)
    if not merge and shuffle:
        merge = round(1 / max(shuffle, _LEAST_SHUFFLE))
    return Vision(
        family=family,
        hidden=hidden,
        layers=min(layers, 512),
        intermediate=wide,
        patch=patch,
        image=image,
        merge=merge or number(config, "spatial_merge_size") or 1,
        frames=number(raw, "temporal_patch_size") or 1,
    )


def _side(value: object) -> int:
    """Return a length, or the first of a list of lengths; 0: none."""
    first = value[0] if isinstance(value, list) and value else value
    return number({"side": first}, "side") or 0


def tower_modules(config: Mapping[str, Any], text: Text) -> Iterator[Module]:
    """Yield all matrices outside the language model."""
    vision = read_vision(config)
    if vision:
        yield from _vision(vision, config, text)
    audio = section(config, "audio_config")
    if audio:
        yield from _audio(audio, text)
    if config.get("is_encoder_decoder") or "encoder_layers" in config:
        yield from _encoder(text)


def _layer(
    name: str, hidden: int, wide: int, gated: bool, layers: int, *, split: bool = True
) -> Iterator[Module]:
    yield Module(
        name=f"{name}.attn", rows=hidden, columns=hidden, count=4 * layers, bias=hidden, split=split
    )
    yield Module(
        name=f"{name}.mlp", rows=wide, columns=hidden, count=(3 if gated else 2) * layers,
        bias=(wide + hidden) // 2,
    )  # fmt: skip


def _vision(vision: Vision, config: Mapping[str, Any], text: Text) -> Iterator[Module]:
    hidden = vision.hidden
    layers = vision.layers
    layer = config.get("vision_feature_layer")
    if isinstance(layer, int) and -layers < layer < -1:
        # The engine omits the encoder's layers after the one whose output is used.
        layers += layer + 1
    # vLLM's MoonViT replicates its attention on every device.
    yield from _layer(
        "visual.blocks.0",
        hidden,
        vision.intermediate,
        vision.family in _GATED,
        layers,
        split=vision.family != "moonvit",
    )
    patch = 3 * vision.frames * vision.patch**2
    yield Module(name="visual.patch_embed", rows=hidden, columns=patch, split=False, linear=False)
    stated = number(section(config, "vision_config"), "num_position_embeddings")
    positions = stated or (vision.image // vision.patch) ** 2
    yield Module(name="visual.positions", rows=positions, columns=hidden, split=False, linear=False)
    yield from _projector(vision, config, text)


def _projector(vision: Vision, config: Mapping[str, Any], text: Text) -> Iterator[Module]:
    family = str(config.get("model_type"))
    merged = vision.hidden * vision.merge**2
    name = "visual.merger"
    if family.startswith("gemma"):
        yield Module(name=name, rows=text.hidden, columns=vision.hidden, split=False)
    elif family == "mistral3" or family.startswith("llava"):
        if family == "mistral3":
            yield Module(name=name, rows=vision.hidden, columns=merged, split=False)
        yield Module(name=name, rows=text.hidden, columns=vision.hidden)
        yield Module(name=name, rows=text.hidden, columns=text.hidden)
    elif family == "llama4":
        raw = section(config, "vision_config")
        inner = number(raw, "projector_input_dim") or 4096
        out = number(raw, "projector_output_dim") or inner
        yield Module(name=name, rows=inner, columns=number(raw, "intermediate_size") or merged)
        yield Module(name=name, rows=out, columns=inner)
        yield Module(name=name, rows=text.hidden, columns=out, split=False)
    else:
        # Patch mergers (Qwen-VL, Kimi-VL, GLM-V) pass the merged patches through two layers.
        deep = section(config, "vision_config").get("deepstack_visual_indexes")
        count = 1 + (len(deep) if isinstance(deep, list) else 0)
        yield Module(name=name, rows=merged, columns=merged, count=count)
        yield Module(name=name, rows=text.hidden, columns=merged, count=count)


def _audio(audio: Mapping[str, Any], text: Text) -> Iterator[Module]:
    hidden = number(audio, "d_model", "hidden_size") or 0
    layers = min(number(audio, "encoder_layers", "num_hidden_layers") or 0, 512)
    wide = number(audio, "encoder_ffn_dim", "intermediate_size") or 4 * hidden
    yield from _layer("audio_tower.layers.0", hidden, wide, False, layers)
    mel = number(audio, "num_mel_bins") or 128
    yield Module(
        name="audio_tower.conv", rows=hidden, columns=3 * (mel + hidden), split=False, linear=False
    )
    positions = number(audio, "max_source_positions") or 0
    yield Module(
        name="audio_tower.positions", rows=positions, columns=hidden, split=False, linear=False
    )
    yield Module(name="audio_tower.projector", rows=text.hidden, columns=hidden)


def _encoder(text: Text) -> Iterator[Module]:
    """Yield the encoder of an encoder-decoder model and the decoder's cross attention."""
    raw = text.raw
    hidden = text.hidden
    layers = min(number(raw, "encoder_layers", "num_layers") or text.layers, 512)
    wide = number(raw, "encoder_ffn_dim", "d_ff") or text.intermediate
    inner = text.heads * text.head_dim
    gated = "gated" in str(raw.get("feed_forward_proj"))
    t5 = text.family in {"t5", "mt5", "umt5"}
    bias = 0 if t5 else hidden
    yield Module(
        name="encoder.layers.0.attn", rows=hidden, columns=inner, count=4 * layers, bias=bias
    )
    yield Module(
        name="encoder.layers.0.mlp", rows=wide, columns=hidden, count=(3 if gated else 2) * layers,
        bias=0 if t5 else (wide + hidden) // 2,
    )  # fmt: skip
    yield Module(
        name="decoder.cross_attn", rows=hidden, columns=inner, count=4 * text.layers, bias=bias
    )
    mel = number(raw, "num_mel_bins")
    if mel:
        yield Module(
            name="encoder.conv", rows=hidden, columns=3 * (mel + hidden), split=False, linear=False
        )
    positions = number(raw, "max_source_positions") or (
        0 if t5 else number(raw, "max_position_embeddings") or 0
    )
    yield Module(
        name="encoder.positions", rows=positions, columns=hidden, split=False, linear=False
    )
