"""The bits of a converted matrix, by the quantizer's own settings."""

from typing import Any

import pytest

from modelium.analysis.architecture.matrices import Module
from modelium.analysis.architecture.quantization import (
    AWQ,
    FP8,
    FP8_BLOCK,
    INT8,
    MXFP4,
    MXFP4_EXPERTS,
    MXFP8,
    NF4,
    NVFP4,
    Quantization,
    Scheme,
    online,
    read_quantization,
)


def read(
    found: dict[str, Any] | None, hf_quant: dict[str, Any] | None = None, **outer: Any
) -> Quantization | None:
    config = outer if found is None else {**outer, "quantization_config": found}
    return read_quantization(config, hf_quant)


def q(name: str, default: Scheme | None) -> Quantization:
    return Quantization(name=name, default=default)


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        # 3 × 70 weights, each row with its scales.
        (Scheme(name="s", bits=8, scale_bits=32), 3 * (70 * 8 + 32) // 8),
        (Scheme(name="s", bits=4, scale_bits=32, zero_bits=8), 3 * (70 * 4 + 40) // 8),
        (Scheme(name="s", bits=4, group=35), 3 * (70 * 4 + 2 * 16) // 8),
        (Scheme(name="s", bits=4, group=32), 3 * (70 * 4 + 3 * 16) // 8),
        (Scheme(name="s", bits=4, group=32, zero_bits=4), 3 * (70 * 4 + 3 * 20) // 8),
        (Scheme(name="s", bits=8, group=32, block=4, scale_bits=32), 3 * (70 * 8 + 24) // 8),
        (Scheme(name="s", bits=8, padded=64), 3 * (70 * 8 + 16) // 8),
    ],
)
def test_a_matrix_has_its_weights_and_their_scales(scheme: Scheme, size: int) -> None:
    assert scheme.size(Module(name="m", rows=3, columns=70)) == size
    assert scheme.size(Module(name="m", rows=3, columns=70, bias=9)) == size


def test_copies_of_a_matrix_are_counted_before_rounding() -> None:
    odd = Scheme(name="s", bits=3, scale_bits=0)
    assert odd.size(Module(name="m", rows=1, columns=5)) == 1  # of 15 bits
    assert odd.size(Module(name="m", rows=1, columns=5, count=7)) == 13  # of 105


def test_kernels_pad_the_hidden_size_of_experts() -> None:
    padded = Scheme(name="s", bits=8, scale_bits=0, padded=64)
    up = Module(name="experts.0.up_proj", rows=3, columns=70, count=5, expert=True)
    down = Module(name="experts.0.down_proj", rows=70, columns=3, count=5, expert=True)
    assert padded.size(up) == padded.size(down) == 5 * 3 * 128
    exact = Module(name="experts.0.up_proj", rows=3, columns=64, expert=True)
    assert padded.size(exact) == 3 * 64
    unpadded = Scheme(name="s", bits=8, scale_bits=0)
    assert unpadded.size(up) == unpadded.size(down) == 5 * 3 * 70


def weights(**found: Any) -> dict[str, Any]:
    groups = {"x": None, "g": {"weights": found}, "h": {"weights": {"num_bits": 8}}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


W8 = Scheme(name="w8", bits=8, scale_bits=32)


@pytest.mark.parametrize(
    ("found", "name", "default"),
    [
        (weights(num_bits=8), "compressed-tensors", W8),
        (
            weights(num_bits=4, group_size=128),
            "compressed-tensors",
            Scheme(name="w4", bits=4, group=128, scale_bits=16),
        ),
        (
            weights(num_bits=4, group_size=128, symmetric=False),
            "compressed-tensors",
            Scheme(name="w4", bits=4, group=128, scale_bits=16, zero_bits=4),
        ),
        (weights(num_bits=4, symmetric=True), "compressed-tensors",
         Scheme(name="w4", bits=4, scale_bits=32)),
        (weights(num_bits=8, block_structure=[64, 64]), "compressed-tensors", FP8_BLOCK),
        (weights(num_bits=8, block_structure=[64]), "compressed-tensors", W8),
        (weights(num_bits=8, block_structure="64"), "compressed-tensors", W8),
        (weights(num_bits=8, type="float"), "compressed-tensors", W8),
        (weights(num_bits=4, type="float", group_size=16), "nvfp4", NVFP4),
        (weights(num_bits=4, type="float", group_size=32), "mxfp4", MXFP4),
        (weights(num_bits=4, type="int", group_size=16), "compressed-tensors",
         Scheme(name="w4", bits=4, group=16, scale_bits=16)),
        (weights(num_bits=16), "compressed-tensors", Scheme(name="w16", bits=16, scale_bits=32)),
        # A group without valid bits does not count.
        (weights(num_bits=17), "compressed-tensors", W8),
        (weights(num_bits=0), "compressed-tensors", W8),
        (weights(), "compressed-tensors", W8),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", None),
        ({"quant_method": "compressed-tensors", "config_groups": []}, "compressed-tensors", None),
    ],
)  # fmt: skip
def test_compressed_tensors_describe_their_first_group(
    found: dict[str, Any], name: str, default: Scheme | None
) -> None:
    assert read(found) == q(name, default)


@pytest.mark.parametrize(
    ("algorithm", "scheme"),
    [
        ("FP8", FP8), ("FP8_PB_WO", FP8_BLOCK), ("FP8_PER_CHANNEL_PER_TOKEN", FP8),
        ("NVFP4", NVFP4), ("nvfp4", NVFP4), ("NVFP4_AWQ", NVFP4), ("W4A16_NVFP4", NVFP4),
        ("MXFP4", MXFP4), ("MXFP8", MXFP8), ("W4A16_AWQ", AWQ), ("W4A8_AWQ", AWQ),
        ("INT4_AWQ", AWQ), ("W8A16", INT8), ("W8A8_SQ_PER_CHANNEL", INT8), ("INT8_SQ", INT8),
    ],
)  # fmt: skip
def test_modelopt_names_an_algorithm(algorithm: str, scheme: Scheme) -> None:
    found = q(scheme.name, scheme)
    assert read({"quant_method": "modelopt", "quant_algo": algorithm}) == found
    assert read({"quant_method": "ModelOpt", "quant_algo": algorithm}) == found
    assert read({"quant_algo": algorithm}) == found
    # In a file of its own.
    own = {"quantization": {"quant_algo": algorithm}}
    assert read(None, own) == read({"quant_algo": "x"}, own) == found
    assert read({"quant_method": "fp8"}, own) == q("fp8", FP8)


def test_an_algorithm_that_is_unknown_converts_nothing() -> None:
    assert read({"quant_method": "modelopt", "quant_algo": "X"}) == q("modelopt", None)
    assert read(None, {"producer": {}}) == q("modelopt", None)


@pytest.mark.parametrize(
    ("found", "name", "default"),
    [
        ({"quant_method": "fp8"}, "fp8", FP8),
        ({"quant_method": "FP8", "weight_block_size": [128, 128]}, "fp8", FP8_BLOCK),
        ({"quant_method": "fp8", "weight_block_size": None}, "fp8", FP8),
        ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8", FP8),
        ({"quant_method": "quark"}, "quark", None),
        ({"bits": 0, "x": 1}, "unknown", None),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes", NF4),
        ({"quant_method": "bitsandbytes", "bnb_4bit_use_double_quant": True}, "bitsandbytes",
         Scheme(name="bitsandbytes", bits=4, group=64, scale_bits=8)),
        *(
            ({"quant_method": "bitsandbytes", key: True, "bnb_4bit_use_double_quant": True},
             "bitsandbytes", Scheme(name="bitsandbytes", bits=8, scale_bits=32))
            for key in ("load_in_8bit", "_load_in_8bit")
        ),
    ],
)  # fmt: skip
def test_a_method_has_a_scheme(found: dict[str, Any], name: str, default: Scheme | None) -> None:
    assert read(found) == q(name, default)


@pytest.mark.parametrize(
    ("settings", "bits", "group", "zero"),
    [
        ({"bits": 4, "group_size": 128}, 4, 128, 4),
        ({"bits": 4, "group_size": 128, "sym": True}, 4, 128, 4),
        ({"w_bit": 3, "q_group_size": 64, "zero_point": True}, 3, 64, 3),
        ({"nbits": 2, "group_size": 64, "zero_point": False}, 2, 64, 0),
        ({"num_bits": 16, "group_size": -1}, 16, 0, 16),
    ],
)
def test_integers_have_bits_groups_and_zero_points(
    settings: dict[str, Any], bits: int, group: int, zero: int
) -> None:
    for method in ("gptq", "awq"):
        scheme = Scheme(name=method, bits=bits, group=group, scale_bits=16, zero_bits=zero)
        assert read({"quant_method": method, **settings}) == q(method, scheme)
    assert read({"quant_method": "gptq", **settings, **dict.fromkeys(settings, 17)}) == q(
        "gptq", None
    )


FOUR = {"quant_method": "fp8"}


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": FOUR},
        {"compression_config": FOUR},
        {"quantization_config": {}, "compression_config": FOUR},
        {"text_config": {"quantization_config": FOUR}},
        {"text_config": {"compression_config": FOUR}},
        {"text_config": {"x": 1}, "compression_config": FOUR},
        {"text_config": {"quantization_config": {"quant_method": "y"}},
         "quantization_config": FOUR},
    ],
)  # fmt: skip
def test_the_quantization_may_stand_in_several_places(config: dict[str, Any]) -> None:
    assert read_quantization(config) == q("fp8", FP8)


def test_a_model_may_be_unquantized() -> None:
    assert read(None) is None
    assert read({}) is None
    assert read(None, {}) is None


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("fp8", FP8), ("FP8", FP8), ("int8", INT8), ("bitsandbytes", NF4), ("mxfp4", MXFP4),
        ("awq", None), (None, None), ("none", None),
    ],
)  # fmt: skip
def test_an_engine_converts_to_some_schemes_while_loading(
    name: str | None, scheme: Scheme | None
) -> None:
    assert online(name) == scheme


def test_formats_have_the_bits_of_their_specifications() -> None:
    def each(scheme: Scheme) -> float:
        module = Module(name="m.experts.0.up_proj", rows=1024, columns=4096, expert=True)
        return 8 * scheme.size(module) / module.elements

    assert [each(scheme) for scheme in (NVFP4, MXFP4, MXFP4_EXPERTS, MXFP8)] == [
        4 + 8 / 16, 4 + 8 / 32, 4 + 8 / 32, 8 + 8 / 32,
    ]  # fmt: skip
    assert [each(scheme) for scheme in (NF4, AWQ)] == [4 + 32 / 64, 4 + 16 / 128]
    assert [each(scheme) for scheme in (FP8, INT8)] == [8 + 32 / 4096] * 2
    assert each(FP8_BLOCK) == pytest.approx(8 + 32 / 128 / 128, rel=1e-4)
