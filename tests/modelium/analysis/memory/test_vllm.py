"""The parts of a vLLM instance's memory, by hand."""

from typing import Any

import pytest

from modelium.analysis.memory.engine_constants import VllmConstants
from modelium.analysis.memory.vllm import (
    SOURCES,
    activation_bytes,
    graph_bytes,
    pool_shape,
    vllm_footprint,
    weight_bytes,
)
from modelium.analysis.memory.vllm_pool import PoolShape, pool_bytes
from modelium.models import Footprint, KVLayout, ModelProfile
from tests.modelium.analysis.memory.profiles import HEADS, profile_of

CONSTANTS = VllmConstants(
    batched_tokens=10, in_flight_batches=3, sequences=5, sampler_bytes=1.5, sampler_fixed=7,
    non_torch=(100, 1000, 10_000), expert_workspace=True, graph_fixed=17, graph_per_layer=19,
    graph_per_width=2, graph_per_expert_layer=23, forward_hidden=4.5,
)  # fmt: skip
LATENT = KVLayout(full_layers=7, latent_dim=21)
MIXED: dict[str, int] = {"BF16": 600, "F32": 40, "F8_E4M3": 360}


def weights(
    profile: ModelProfile, *, degree: int = 1, dtype: str | None = None,
    quantization: str | None = None,
) -> int:  # fmt: skip
    return weight_bytes(profile, tensor_parallel=degree, dtype=dtype, quantization=quantization)


@pytest.mark.parametrize(
    ("stored", "dtype", "found"),
    [
        ("bfloat16", None, 1000),
        ("bfloat16", "float16", 1000),
        ("float16", "bfloat16", 1000),
        ("bfloat16", "float32", 2000),
        ("float16", "float32", 2000),
        ("float32", None, 500),
        ("float32", "float32", 1000),
        ("float64", None, 250),
        ("float64", "float32", 500),
        (None, None, 1000),
        (None, "float32", 2000),
    ],
)
def test_plain_weights_are_converted_to_the_dtype_of_activations(
    stored: str | None, dtype: str | None, found: int
) -> None:
    for name in ("F32", "F16", "BF16", "F64"):
        plain = profile_of(dtype=stored, weight_bytes_by_dtype={name: 1000})
        assert weights(plain, dtype=dtype) == found
    converted = profile_of(dtype=stored, weight_bytes_by_dtype={"F8_E4M3": 1000})
    assert weights(converted, dtype=dtype) == 1000


@pytest.mark.parametrize(
    ("quantization", "stored", "found"),
    [(None, "bfloat16", 1640), ("fp8", "bfloat16", 1600), ("fp8", "float16", 1000)],
)
def test_scales_of_quantized_weights_keep_their_dtype(
    quantization: str | None, stored: str, found: int
) -> None:
    mixed = profile_of(dtype=stored, quantization=quantization, weight_bytes_by_dtype=MIXED)
    assert weights(mixed, dtype="float32") == found


LINEAR = {"plain_linear": 802, "plain_linear_rows": 30}


@pytest.mark.parametrize(
    ("quantization", "dtype", "found"),
    [
        (None, None, 1000),
        ("awq", None, 1000),
        ("fp8", None, 198 + 401 + 30 * 4),  # a scale per row
        (None, "fp8", 198 + 401 + 30 * 4),
        ("int8", "fp8", 198 + 401 + 30 * 4),
        ("bitsandbytes", None, 198 + 200 + 6 * 4),  # a scale per 64 weights
        ("mxfp4", "fp8", 198 + 200 + 12),  # per 32
    ],
)
def test_an_engine_converts_linear_layers_while_loading(
    quantization: str | None, dtype: str | None, found: int
) -> None:
    assert weights(profile_of(LINEAR), quantization=quantization, dtype=dtype) == found
    already = profile_of(LINEAR, quantization="fp8")
    assert weights(already, quantization=quantization, dtype=dtype) == 1000


def test_what_is_unknown_of_linear_layers_is_nothing() -> None:
    assert weights(profile_of(), quantization="fp8") == 1000
    assert weights(profile_of({"plain_linear": 802}), quantization="fp8") == 198 + 401


def test_linear_layers_are_converted_from_the_dtype_of_activations() -> None:
    wide = profile_of(LINEAR, dtype="float32", weight_bytes_by_dtype={"F32": 1000})
    # 401 bytes are 200 weights.
    assert weights(wide, quantization="fp8") == 99 + 200 + 30 * 4
    many = profile_of({"plain_linear": 802, "plain_linear_rows": 300})
    assert weights(many, quantization="fp8") == 1000  # scales would cost more than they save


@pytest.mark.parametrize(
    ("degree", "dtype", "found"),
    [
        (1, None, 100 + 900 + 30 + 3 * 2),
        (4, None, int(100 + 930 / 4) + 3 * 2),
        (4, "float32", int(200 + 1830 / 4) + 3 * 4),
    ],
)
def test_some_matrices_are_on_every_device(degree: int, dtype: str | None, found: int) -> None:
    profile = profile_of({"replicated": 100, "absorbed": 30, "rope": 3})
    assert weights(profile, degree=degree, dtype=dtype) == found


@pytest.mark.parametrize(
    ("kv", "degree", "dtype", "found"),
    [
        (HEADS, 1, None, 1000),
        (HEADS, 2, None, 500),
        (HEADS, 3, None, int(1000 / 3 + 80 * (1 / 2 - 1 / 3))),
        (HEADS, 4, None, 250 + 20),
        (HEADS, 4, "float32", 500 + 40),
        (None, 4, None, 250 + 20),
        (LATENT, 4, None, 250),
    ],
)
def test_each_device_has_the_projections_of_a_whole_head(
    kv: KVLayout | None, degree: int, dtype: str | None, found: int
) -> None:
    profile = profile_of({"kv_heads": 2, "key_value": 80}, kv=kv)
    assert weights(profile, degree=degree, dtype=dtype) == found
    for memory in ({"kv_heads": 0, "key_value": 80}, {"key_value": 80}, {"kv_heads": 2}):
        assert weights(profile_of(memory, kv=kv), degree=4) == 250


FORWARD = 10 * 2 * (4.5 * 13 + 3 * 44)


def activation(
    profile: ModelProfile, *, constants: VllmConstants = CONSTANTS, degree: int = 1, unit: int = 2,
    sequences: int | None = None,
) -> int:  # fmt: skip
    return activation_bytes(profile, constants, degree, unit, sequences)


@pytest.mark.parametrize(
    ("changes", "degree", "unit", "found"),
    [
        ({}, 1, 2, FORWARD),
        ({}, 3, 2, 10 * 2 * (4.5 * 13 + 3 * 14)),  # 44 / 3
        ({}, 1, 4, 2 * FORWARD),
        ({"hidden_size": None}, 1, 2, 10 * 2 * 3 * 44),
        ({"intermediate_size": None}, 1, 2, 10 * 2 * (4.5 * 13 + 3 * 52)),
        ({"hidden_size": None, "intermediate_size": None, "kv": None}, 1, 2, 0),
    ],
)
def test_a_forward_pass_holds_rows_of_a_batch(
    changes: dict[str, Any], degree: int, unit: int, found: int
) -> None:
    profile = profile_of(vocabulary_size=1, **changes)
    assert activation(profile, degree=degree, unit=unit) == found


@pytest.mark.parametrize(
    ("sequences", "unit", "found"),
    [
        (None, 2, int(5 * 2001 * 3.5) + 7 + 10 * 13 * 2),
        (4, 2, int(5 * 2001 * 3.5) + 7 + 10 * 13 * 2),
        (6, 2, int(6 * 2001 * 3.5) + 7 + 10 * 13 * 2),
        (None, 4, int(5 * 2001 * 5.5) + 7 + 10 * 13 * 4),
    ],
)
def test_the_sampler_holds_logits_of_every_sequence(
    sequences: int | None, unit: int, found: int
) -> None:
    profile = profile_of(vocabulary_size=2001)
    assert activation(profile, sequences=sequences, unit=unit) == found
    embedding = profile_of(vocabulary_size=2001, kv=None)
    assert activation(embedding, sequences=sequences) == FORWARD


def test_the_larger_of_forward_pass_and_sampler_counts() -> None:
    small = CONSTANTS.model_copy(update={"batched_tokens": 0})
    assert activation(profile_of(vocabulary_size=None), constants=small) == 7
    assert activation(profile_of(kv=None), constants=small) == 0


@pytest.mark.parametrize(
    ("inner", "degree", "rows"),
    [(6, 1, 13 + 13), (8, 1, 13 + 16), (14, 1, 14 + 28), (14, 2, 13 + 14)],
)
def test_experts_need_two_workspaces(inner: int, degree: int, rows: int) -> None:
    memory = {"top_k": 3, "expert_intermediate": inner}
    dense = activation(profile_of(), degree=degree)
    assert activation(profile_of(memory), degree=degree) == dense + 10 * 3 * 2 * rows
    before = CONSTANTS.model_copy(update={"expert_workspace": False})
    assert activation(profile_of(memory), constants=before, degree=degree) == dense
    assert activation(profile_of({**memory, "top_k": 0}), degree=degree) == dense
    shapeless = profile_of({"top_k": 3}, hidden_size=None, vocabulary_size=None)
    assert activation(shapeless) == 10 * 2 * 3 * 44


def test_images_stay_beside_the_text_models_pass() -> None:
    memory = {"pixels_per_token": 17}
    assert activation(profile_of(memory)) == FORWARD + 10 * 2 * (13 + 17)
    assert activation(profile_of(memory), unit=4) == 2 * FORWARD + 10 * 2 * (13 + 17)


@pytest.mark.parametrize(
    ("changes", "memory", "degree", "found"),
    [
        ({}, {}, 1, 17 + 19 * 7 + 2 * 88),
        ({}, {}, 3, 17 + 19 * 7 + 2 * 29),
        ({}, {"top_k": 2}, 1, 17 + 19 * 7 + 2 * 88 + 23 * 7),
        ({"layers": None, "intermediate_size": None}, {"top_k": 2}, 1, 17),
        ({"kv": None}, {"top_k": 2}, 1, 0),
    ],
)
def test_graphs_grow_with_layers_and_width(
    changes: dict[str, Any], memory: dict[str, Any], degree: int, found: int
) -> None:
    assert graph_bytes(profile_of(memory, **changes), CONSTANTS, degree) == found


def test_a_pool_holds_the_batches_that_overlap() -> None:
    assert pool_shape(CONSTANTS, 4) == PoolShape(tensor_parallel=4, in_flight_tokens=30)


@pytest.mark.parametrize(("degree", "non_torch"), [(1, 100), (2, 1000), (3, 11_000), (4, 21_000)])
def test_the_parts_add_up_to_a_reservation(degree: int, non_torch: int) -> None:
    profile = profile_of({"rope": 3, "top_k": 1})
    asked: dict[str, Any] = {"dtype": "float32", "max_model_len": 300, "max_num_seqs": 6}
    found = vllm_footprint(profile, CONSTANTS, tensor_parallel=degree, kv_dtype="fp8", **asked)
    weights = int(2000 / degree) + 3 * 4
    activation = activation_bytes(profile, CONSTANTS, degree, 4, 6)
    graphs = graph_bytes(profile, CONSTANTS, degree)
    pool, least = pool_bytes(profile, pool_shape(CONSTANTS, degree), kv_dtype="fp8", **asked)
    other = non_torch + int((weights + activation) * 0.01)
    engine = weights + activation + graphs + other
    assert found == Footprint(
        weights=weights, kv=pool, activation=activation, graphs=graphs, non_torch=other,
        expected=engine + pool, reserve=int(engine * 1.03) + 200_000_000 + pool, kv_least=least,
        sources=SOURCES,
    )  # fmt: skip
    assert found.kv > found.kv_least > 0


def test_weights_may_come_from_the_configuration_alone() -> None:
    def source(**changes: Any) -> str:
        return vllm_footprint(profile_of(**changes), CONSTANTS).sources["weights"]

    assert source() == "safetensors headers, rotary tables included"
    assert source(exact=False) == "configuration, rotary tables included"


@pytest.mark.parametrize(
    ("context", "asked", "rows"),
    [
        (3000, None, 24_000),
        (3000, 500, 4000),
        (None, None, 8 * 2048),
        (None, 8191, 65_528),
        (9000, None, 65_536),
    ],
)
def test_latent_attention_decompresses_a_part_of_the_context(
    context: int | None, asked: int | None, rows: int
) -> None:
    profile = profile_of(kv=LATENT, context_length=context)
    for dtype, unit in ((None, 2), ("float32", 4)):
        found = vllm_footprint(profile, CONSTANTS, dtype=dtype, max_model_len=asked)
        assert found.activation == FORWARD * unit / 2 + rows * 21 * unit


def test_embedding_models_have_no_pool_and_no_graphs() -> None:
    found = vllm_footprint(profile_of(kv=None), CONSTANTS)
    assert (found.kv, found.kv_least, found.graphs) == (0, 0, 0)
    assert (found.activation, found.non_torch) == (FORWARD, 100 + int((1000 + FORWARD) * 0.01))


def test_an_engine_converts_what_an_instance_asks_for() -> None:
    profile = profile_of(LINEAR)
    found = vllm_footprint(profile, CONSTANTS, quantization="fp8")
    assert found.weights == 198 + 401 + 30 * 4
