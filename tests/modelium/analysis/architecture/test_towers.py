"""The matrices outside the language model, each size with a number of its own."""

from typing import Any

import pytest

from modelium.analysis.architecture.towers import Vision, read_vision, tower_modules
from tests.modelium.analysis.architecture.shapes import lines, text_of

SIGHT: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 5, "intermediate_size": 19}


def sight(outer: dict[str, Any] | None = None, **changes: Any) -> Vision | None:
    """What is read of `SIGHT` with ``changes``."""
    return read_vision({**(outer or {}), "vision_config": {**SIGHT, **changes}})


def seen(**changes: Any) -> Vision:
    values: dict[str, Any] = {
        "family": "", "hidden": 8, "layers": 5, "intermediate": 19, "patch": 14, "image": 0,
        "merge": 1, "frames": 1,
    }  # fmt: skip
    return Vision(**(values | changes))


@pytest.mark.parametrize("name", ["vision_config", "vision_tower_config"])
def test_an_encoder_needs_a_width_and_layers(name: str) -> None:
    assert read_vision({name: SIGHT}) == seen()
    assert read_vision({name: {**SIGHT, "hidden_size": 0}}) is None
    assert read_vision({name: {**SIGHT, "num_hidden_layers": None}}) is None
    assert read_vision({name: {}}) is None
    assert read_vision({}) is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model_type": "x"}, {"family": "x"}),
        # In order of precedence.
        ({"hidden_size": 0, "embed_dim": 9}, {"hidden": 9}),
        ({"hidden_size": 10, "embed_dim": 9}, {"hidden": 9}),
        ({"hidden_size": None, "vt_hidden_size": 9}, {"hidden": 9}),
        ({"hidden_size": None, "width": 9}, {"hidden": 9}),
        ({"depth": 4}, {"layers": 4}),
        ({"num_hidden_layers": None, "vt_num_hidden_layers": 4}, {"layers": 4}),
        ({"num_hidden_layers": None, "layers": 4}, {"layers": 4}),
        ({"layers": 4}, {}),
        ({"num_hidden_layers": 513}, {"layers": 512}),
        ({"mlp_ratio": 3}, {}),
        ({"intermediate_size": None, "vt_intermediate_size": 7, "mlp_ratio": 3},
         {"intermediate": 7}),
        ({"intermediate_size": None, "mlp_ratio": 3}, {"intermediate": 24}),
        ({"intermediate_size": None, "mlp_ratio": 2.7}, {"intermediate": 21}),
        ({"intermediate_size": None}, {"intermediate": 32}),
        ({"intermediate_size": None, "mlp_ratio": 1024}, {"intermediate": 8192}),
        *(
            ({"intermediate_size": None, "mlp_ratio": absurd}, {"intermediate": 32})
            for absurd in (1025, 1e308, -3, float("nan"), "3")
        ),
        ({"patch_size": 7}, {"patch": 7}),
        ({"image_size": 30}, {"image": 30}),
        ({"image_size": [30, 40]}, {"image": 30}),
        *(({"image_size": absurd}, {}) for absurd in ([], ["30"], "30", -30)),
        ({"temporal_patch_size": 2}, {"frames": 2}),
        ({"spatial_merge_size": 3}, {"merge": 3}),
        ({"pooling_kernel_size": 3}, {"merge": 3}),
        ({"merge_kernel_size": [3, 2]}, {"merge": 3}),
        ({"spatial_merge_size": 2, "merge_kernel_size": [3, 3]}, {"merge": 2}),
        ({"merge_kernel_size": []}, {}),
        ({"pixel_shuffle_ratio": 0.3}, {"merge": 3}),
        ({"pixel_shuffle_ratio": 1}, {"merge": 1}),
        ({"pixel_shuffle_ratio": 1e-320}, {"merge": 64}),
        ({"pixel_shuffle_ratio": 2}, {}),
        ({"pixel_shuffle_ratio": 0}, {}),
        ({"merge_kernel_size": [3], "pixel_shuffle_ratio": 0.5}, {"merge": 3}),
        ({"params": {"model_name": "siglip_so400m_patch14_384"}}, {"image": 384}),
        ({"params": {"model_name": "unheard of"}}, {}),
    ],
)  # fmt: skip
def test_an_encoders_sizes_have_many_names(changes: dict[str, Any], found: dict[str, Any]) -> None:
    assert sight(**changes) == seen(**found)


@pytest.mark.parametrize(
    ("outer", "changes", "merge"),
    [
        # 56 // 7 = 8 patches along a side.
        ({"mm_tokens_per_image": 16}, {}, 2),
        ({"image_seq_length": 4}, {}, 4),
        ({"image_seq_length": 5}, {}, 4),  # 3.6
        ({"image_seq_length": 10**6}, {}, 1),
        ({"image_seq_length": 4}, {"spatial_merge_size": 3}, 3),
        ({"image_seq_length": 4}, {"pixel_shuffle_ratio": 0.5}, 4),
        ({"image_seq_length": 4}, {"image_size": None}, 1),
        ({"spatial_merge_size": 3}, {}, 3),
        ({"spatial_merge_size": 3}, {"spatial_merge_size": 2}, 2),
        ({}, {}, 1),
    ],
)
def test_patches_are_merged_as_stated_or_as_an_images_tokens_tell(
    outer: dict[str, Any], changes: dict[str, Any], merge: int
) -> None:
    sizes = {"patch_size": 7, "image_size": 56, **changes}
    found = seen(patch=7, image=sizes["image_size"] or 0, merge=merge)
    assert sight(outer, **sizes) == found


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ({"model_type": "clip_vision_model"}, (768, 12, 3072, 32, 224)),
        ({"model_type": "siglip_vision_model"}, (768, 12, 3072, 16, 224)),
        ({"model_type": "pixtral"}, (1024, 24, 4096, 16, 1024)),
        ({"model_type": "moonvit"}, (1152, 27, 4304, 14, 896)),
        ({"params": {"model_name": "siglip_large_patch16_384"}}, (1024, 24, 4096, 16, 384)),
    ],
)
def test_known_encoders_may_leave_out_their_sizes(
    named: dict[str, Any], found: tuple[int, ...]
) -> None:
    vision = read_vision({"vision_config": named})
    assert vision is not None
    sizes = (vision.hidden, vision.layers, vision.intermediate, vision.patch, vision.image)
    assert sizes == found


def visual(outer: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    config = {**(outer or {}), "vision_config": {**SIGHT, "patch_size": 7, **changes}}
    return lines(tower_modules(config, text_of()), without="visual.")


LAYERS = ["blocks.0.attn 8×8 times 20 bias 8", "blocks.0.mlp 19×8 times 10 bias 13"]
PATCHES, POSITIONS = "patch_embed 8×147 whole table", "positions 0×8 whole table"
MERGER = ["merger 8×8", "merger 11×8"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, [*LAYERS, PATCHES, POSITIONS, *MERGER]),
        (
            {"model_type": "pixtral"},
            [LAYERS[0], "blocks.0.mlp 19×8 times 15 bias 13", PATCHES,
             "positions 21316×8 whole table", *MERGER],
        ),
        (
            {"model_type": "moonvit", "image_size": 0},
            [f"{LAYERS[0]} whole", LAYERS[1], PATCHES, POSITIONS, *MERGER],
        ),
        (
            {"temporal_patch_size": 2},
            [*LAYERS, "patch_embed 8×294 whole table", POSITIONS, *MERGER],
        ),
        ({"image_size": 50}, [*LAYERS, PATCHES, "positions 49×8 whole table", *MERGER]),
        (
            {"image_size": 50, "num_position_embeddings": 23},
            [*LAYERS, PATCHES, "positions 23×8 whole table", *MERGER],
        ),
    ],
)  # fmt: skip
def test_an_encoder_has_layers_patches_positions_and_a_merger(
    changes: dict[str, Any], found: list[str]
) -> None:
    assert visual(**changes) == found


@pytest.mark.parametrize(
    ("layer", "kept"),
    [(-1, 5), (-2, 4), (-3, 3), (-4, 2), (-7, 5), (0, 5), (2, 5), (None, 5), ([-2], 5)],
)
def test_layers_after_the_one_that_is_used_are_left_out(layer: object, kept: int) -> None:
    found = visual({"vision_feature_layer": layer})
    assert found[:2] == [
        f"blocks.0.attn 8×8 times {4 * kept} bias 8",
        f"blocks.0.mlp 19×8 times {2 * kept} bias 13",
    ]


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("qwen3_vl", {}, ["merger 72×72", "merger 11×72"]),
        (
            "qwen3_vl",
            {"deepstack_visual_indexes": [3, 5]},
            ["merger 72×72 times 3", "merger 11×72 times 3"],
        ),
        ("qwen3_vl", {"deepstack_visual_indexes": 2}, ["merger 72×72", "merger 11×72"]),
        ("gemma3", {}, ["merger 11×8 whole"]),
        ("llava", {}, ["merger 11×8", "merger 11×11"]),
        ("llava_next", {}, ["merger 11×8", "merger 11×11"]),
        ("mistral3", {}, ["merger 8×72 whole", "merger 11×8", "merger 11×11"]),
        ("llama4", {}, ["merger 4096×19", "merger 4096×4096", "merger 11×4096 whole"]),
        (
            "llama4",
            {"projector_input_dim": 6, "projector_output_dim": 4},
            ["merger 6×19", "merger 4×6", "merger 11×4 whole"],
        ),
        (
            "llama4",
            {"projector_input_dim": 6, "intermediate_size": None},
            ["merger 6×72", "merger 6×6", "merger 11×6 whole"],
        ),
    ],
)  # fmt: skip
def test_a_projector_follows_its_family(
    family: str, changes: dict[str, Any], found: list[str]
) -> None:
    assert visual({"model_type": family}, spatial_merge_size=3, **changes)[4:] == found


def heard(**audio: Any) -> list[str]:
    return lines(tower_modules({"audio_config": audio}, text_of()), without="audio_tower.")


def test_an_audio_encoder_has_layers_a_convolution_and_a_projector() -> None:
    found = [
        "layers.0.attn 8×8 times 20 bias 8", "layers.0.mlp 19×8 times 10 bias 13",
        "conv 8×45 whole table", "positions 23×8 whole table", "projector 11×8",
    ]  # fmt: skip
    rest = {"num_mel_bins": 7, "max_source_positions": 23}
    assert heard(d_model=8, encoder_layers=5, encoder_ffn_dim=19, **rest) == found
    assert heard(**SIGHT, **rest) == found
    assert heard(hidden_size=8, num_hidden_layers=5) == [
        "layers.0.attn 8×8 times 20 bias 8", "layers.0.mlp 32×8 times 10 bias 20",
        "conv 8×408 whole table", "positions 0×8 whole table", "projector 11×8",
    ]  # fmt: skip
    assert heard(hidden_size=8, num_hidden_layers=513)[0] == "layers.0.attn 8×8 times 2048 bias 8"
    assert heard(num_mel_bins=7)[:2] == ["layers.0.attn 0×0 times 0", "layers.0.mlp 0×0 times 0"]


def halves(family: str, config: dict[str, Any], **changes: Any) -> list[str]:
    text = text_of(family, **{"max_position_embeddings": None, **changes})
    return lines(tower_modules(config, text))


BART = [
    "encoder.layers.0.attn 11×30 times 20 bias 11", "encoder.layers.0.mlp 19×11 times 10 bias 15",
    "decoder.cross_attn 11×30 times 12 bias 11",
]  # fmt: skip
T5 = [
    "encoder.layers.0.attn 11×30 times 20", "encoder.layers.0.mlp 19×11 times 10",
    "decoder.cross_attn 11×30 times 12", "encoder.positions 0×11 whole table",
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("bart", {"encoder_ffn_dim": 19}, [*BART, "encoder.positions 0×11 whole table"]),
        (
            "bart",
            {"encoder_ffn_dim": 19, "max_position_embeddings": 17},
            [*BART, "encoder.positions 17×11 whole table"],
        ),
        (
            "whisper",
            {"encoder_ffn_dim": 19, "num_mel_bins": 7, "max_source_positions": 23},
            [*BART, "encoder.conv 11×54 whole table", "encoder.positions 23×11 whole table"],
        ),
        ("t5", {"d_ff": 19, "max_position_embeddings": 17}, T5),
        (
            "umt5",
            {"d_ff": 19, "feed_forward_proj": "gated-gelu"},
            [T5[0], "encoder.layers.0.mlp 19×11 times 15", *T5[2:]],
        ),
        ("mt5", {"d_ff": 19, "max_source_positions": 23},
         [*T5[:3], "encoder.positions 23×11 whole table"]),
    ],
)  # fmt: skip
def test_an_encoder_beside_a_decoder_adds_cross_attention(
    family: str, changes: dict[str, Any], found: list[str]
) -> None:
    """Five layers encode, three decode."""
    raw = {"encoder_layers": 5, "num_hidden_layers": 3, **changes}
    assert halves(family, {"is_encoder_decoder": True}, **raw) == found
    assert halves(family, {"encoder_layers": 5}, **raw) == found
    assert halves(family, {"is_encoder_decoder": False}, **raw) == []


def test_an_encoder_has_the_decoders_sizes_unless_stated() -> None:
    found = halves("bart", {"is_encoder_decoder": True})
    assert found[:2] == [
        "encoder.layers.0.attn 11×30 times 12 bias 11", "encoder.layers.0.mlp 13×11 times 6 bias 12",
    ]  # fmt: skip
    both = halves("t5", {"is_encoder_decoder": True}, num_hidden_layers=None, num_layers=4)
    assert both[0] == "encoder.layers.0.attn 11×30 times 16"
    many = halves("bart", {"is_encoder_decoder": True}, encoder_layers=513)
    assert many[0] == "encoder.layers.0.attn 11×30 times 2048 bias 11"


def test_a_model_may_see_and_hear() -> None:
    config = {"vision_config": SIGHT, "audio_config": {"d_model": 8}}
    names = [module.name for module in tower_modules(config, text_of())]
    assert names == [
        "visual.blocks.0.attn", "visual.blocks.0.mlp", "visual.patch_embed", "visual.positions",
        "visual.merger", "visual.merger", "audio_tower.layers.0.attn", "audio_tower.layers.0.mlp",
        "audio_tower.conv", "audio_tower.positions", "audio_tower.projector",
    ]  # fmt: skip
    assert list(tower_modules({}, text_of())) == []
