"""Which matrices a quantization converts."""

from typing import Any

import pytest

from modelium.analysis.architecture.matrices import Module
from modelium.analysis.architecture.quantization import (
    FP8,
    FP8_BLOCK,
    MAX_GLOBS,
    MAX_OPTIONS,
    MAX_PATTERN,
    MAX_PATTERNS,
    MXFP4,
    MXFP4_EXPERTS,
    NVFP4,
    Quantization,
    Scheme,
    normal,
    read_quantization,
)

NAMES = [
    "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj",
    "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "model.layers.10.mlp.up_proj",
    "model.layers.1.mlp.experts.0.up_proj", "model.layers.1.mlp.shared_experts.up_proj",
    "visual.merger",
]  # fmt: skip


def matrix(name: str, *, linear: bool = True) -> Module:
    return Module(name=name, rows=3, columns=5, linear=linear, expert=".experts." in name)


def read(**found: Any) -> Quantization:
    quantization = read_quantization({"quantization_config": {"quant_method": "fp8", **found}})
    assert quantization is not None
    return quantization


def excluded(*patterns: object, key: str = "ignore") -> list[str]:
    """The matrices of `NAMES` that ``patterns`` leave unconverted."""
    quantization = read(**{key: list(patterns)})
    found = {name: quantization.scheme(matrix(name)) for name in NAMES}
    assert set(found.values()) <= {None, FP8}
    return [name for name in NAMES if found[name] is None]


ATTENTION, EXPERTS, SHARED = NAMES[:2], NAMES[5:6], NAMES[6:7]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ([], []),
        (["lm_head"], []),
        (["model.layers.0.self_attn.q_proj"], NAMES[:1]),
        (["model.layers.0.self_attn"], ATTENTION),  # and what lies below
        (["model.layers.0"], NAMES[:3]),
        (["model.layers.0.self"], []),
        (["layers.1"], NAMES[3:4] + EXPERTS + SHARED),
        (["model.layers.1.mlp.experts.5"], EXPERTS),  # all experts are alike
        (["model.layers.1*"], [*NAMES[3:5], *EXPERTS, *SHARED]),
        (["model.layers.1.*"], [NAMES[3], *EXPERTS, *SHARED]),
        (["*"], NAMES),
        (["*up_proj"], [*NAMES[2:5], *EXPERTS, *SHARED]),
        (["model.layers.*.mlp.*"], [*NAMES[2:5], *EXPERTS, *SHARED]),
        (["visual.merger?"], []),
        (["visual.merge?"], NAMES[7:]),
        (["*.self_attn.*"], ATTENTION),
        (["*.self_attn"], ATTENTION),  # and what lies below
        (["model.layers.?.mlp.up_proj"], NAMES[2:4]),
        (["model.layers.[02].mlp.up_proj"], NAMES[2:3]),
        (["re:.*self_attn.*"], ATTENTION),
        (["re:^model\\.layers\\.\\d+\\.mlp\\.up_proj$"], NAMES[2:5]),
        (["re:model.layers.[0-9]+.mlp.up_proj"], NAMES[2:5]),
        (["re:.*(q_proj|shared_experts).*"], [NAMES[0], *SHARED]),
        (["re:model.layers.1.(mlp|x).up_proj"], NAMES[3:4]),
        (["re:visual.merger("], NAMES[7:]),
        (["re:visual.merger)"], NAMES[7:]),
        (["re:vis)ual.mer(x|ger)"], NAMES[7:]),
        (["vision_tower.merger"], NAMES[7:]),
        (["multi_modal_projector"], NAMES[7:]),
        (["model.layers.0.attn"], ATTENTION),
        (["model.layers.0.feed_forward"], NAMES[2:3]),
        (["model.layers.1.mlp.shared_expert"], SHARED),
        (["x" * MAX_PATTERN, "visual"], NAMES[7:]),
        (["", None, 3, ["visual"]], []),
        (["", 3, "y" * (MAX_PATTERN + 1), "visual"], NAMES[7:]),
    ],
)
def test_patterns_exclude_matrices(patterns: list[object], found: list[str]) -> None:
    assert excluded(*patterns) == found


@pytest.mark.parametrize(
    "key",
    [
        "ignore", "modules_to_not_convert", "exclude_modules", "llm_int8_skip_modules",
        "ignored_layers",
    ],
)  # fmt: skip
def test_each_quantizer_has_a_key_for_what_it_leaves_out(key: str) -> None:
    assert excluded("visual", key=key) == NAMES[7:]
    assert read(**{key: "visual"}).excluded == frozenset()


def test_lists_under_several_keys_are_joined() -> None:
    both = read(ignore=["b", "a*", "*c"], ignored_layers=["d", "e*", "*f"])
    assert both.excluded == frozenset({"b", "d"})
    assert (sorted(both.prefixes), both.globs) == (["a", "e"], ("*c", "*f"))


def test_patterns_are_bounded() -> None:
    long = "v" * MAX_PATTERN
    assert read(ignore=[long, long + "w"]).excluded == frozenset({long})
    many = [str(number) for number in range(MAX_PATTERNS + 1)]
    assert read(ignore=many).excluded == frozenset(many[:-1])
    globs = [f"*{number}" for number in range(MAX_GLOBS + 1)]
    assert read(ignore=globs).globs == tuple(globs[:-1])
    options = [f"n{number}" for number in range(MAX_OPTIONS + 1)]
    found = read(ignore=[f"re:({'|'.join(options)})"]).excluded
    assert found == frozenset(options[:-1])


def test_only_linear_matrices_are_converted_and_never_the_output_layer() -> None:
    quantization = read()
    assert quantization.scheme(matrix("model.layers.0.mlp.up_proj")) == FP8
    assert quantization.scheme(matrix("model.layers.0.conv", linear=False)) is None
    assert quantization.scheme(matrix("lm_head")) is None


def test_experts_may_have_a_scheme_of_their_own() -> None:
    dense, expert = matrix("model.layers.0.mlp.up_proj"), matrix("model.layers.0.mlp.experts.0.up")
    config = {"quant_method": "fp8", "ignore": ["*self_attn*"]}
    v4 = read_quantization({"model_type": "deepseek_v4", "quantization_config": config})
    assert v4 == Quantization(name="fp8", default=FP8, experts=MXFP4, globs=("*self_attn*",))
    assert (v4.scheme(dense), v4.scheme(expert)) == (FP8, MXFP4)
    mxfp4 = read(quant_method="mxfp4", ignore=["lm_head"])
    assert mxfp4 == Quantization(
        name="mxfp4", default=MXFP4_EXPERTS, only_experts=True, excluded=frozenset({"lm_head"})
    )
    assert (mxfp4.scheme(dense), mxfp4.scheme(expert)) == (None, MXFP4_EXPERTS)
    assert (read().scheme(dense), read().scheme(expert)) == (FP8, FP8)


def test_layers_may_be_listed_with_their_schemes() -> None:
    layers = {
        "model.layers.0.self_attn": {"quant_algo": "NVFP4"},
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.layers.0.mlp": {"quant_algo": "unheard of"},
        "model.layers.1": "FP8",
    }
    named = {"layers.0.self_attn": NVFP4, "layers.0.self_attn.q_proj": FP8}
    found = read(quant_method="modelopt", quantized_layers=layers, ignore=["*"])
    assert found == Quantization(name="mixed", default=None, named=named)
    # The nearest entry counts.
    schemes = [found.scheme(matrix(name)) for name in NAMES[:3]]
    assert schemes == [FP8, NVFP4, None]
    blocks = read(quantized_layers=layers)
    assert blocks == Quantization(name="mixed", default=FP8_BLOCK, named=named)
    assert [blocks.scheme(matrix(name)) for name in NAMES[1:4]] == [NVFP4, FP8_BLOCK, FP8_BLOCK]
    assert read(quantized_layers={}) == read(quantized_layers=["x"]) == read()
    many = {str(number): {"quant_algo": "FP8"} for number in range(MAX_PATTERNS + 1)}
    assert len(read(quantized_layers=many).named) == MAX_PATTERNS


def test_a_listed_scheme_goes_before_an_exclusion() -> None:
    four = Scheme(name="four", bits=4)
    found = Quantization(
        name="q", default=FP8, named={"visual": four}, excluded=frozenset({"visual", "layers.0"})
    )
    assert [found.scheme(matrix(name)) for name in (NAMES[7], NAMES[0], NAMES[3])] == [
        four, None, FP8,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model.layers.0.block_sparse_moe.gate", "layers.0.mlp.gate"),
        ("language_model.model.layers.0.feed_forward.up", "layers.0.mlp.up"),
        ("transformer.layers.0.ffn.up", "layers.0.mlp.up"),
        *(
            (f"backbone.layers.0.mixer.{part}proj", f"layers.0.self_attn.{part}proj")
            for part in ("q_", "k_", "v_", "o_")
        ),
        ("backbone.layers.0.mixer.in_proj", "layers.0.linear_attn.in_proj"),
        ("backbone.layers.0.mixer.out_proj", "layers.0.linear_attn.out_proj"),
        ("backbone.layers.0.mixer.experts.12.up_proj", "layers.0.mlp.experts.up_proj"),
        ("layers.0.mixer.shared_experts.up", "layers.0.mlp.shared_experts.up"),
        ("layers.0.mixer.up_proj", "layers.0.mlp.up_proj"),
        ("layers.0.mixer.down_proj", "layers.0.mlp.down_proj"),
        ("model.vision_tower.x", "visual.x"),
        ("vision_model.x", "visual.x"),
        ("mm_projector.x", "visual.merger.x"),
        ("multi_modal_projector.x", "visual.merger.x"),
        ("model.embed_vision.x", "visual.merger.x"),
        ("layers.0.attn.q", "layers.0.self_attn.q"),
        ("layers.0.self_attn.q", "layers.0.self_attn.q"),
        ("layers.0.linear_attn.q", "layers.0.linear_attn.q"),
        ("layers.0.attnx", "layers.0.attnx"),
        ("layers.0.shared_expert.up", "layers.0.shared_experts.up"),
        ("layers.0.shared_expert_gate", "layers.0.shared_expert_gate"),
        ("text_model.encoder.model.x", "encoder.model.x"),
        ("modelling.x", "modelling.x"),
    ],
)
def test_names_of_families_become_common_ones(name: str, found: str) -> None:
    assert normal(name) == found
