"""Constants by engine, version and device."""

import pytest

from modelium.analysis.memory.engine_constants import (
    Margin,
    Overhead,
    VllmConstants,
    allowance,
    margin,
    overhead,
    vllm_constants,
)
from modelium.models import GIB

CONTEXT = 552_000_000
OLDEST = VllmConstants(
    batched_tokens=2048, sequences=256, sampler_bytes=36.5, sampler_fixed=50_000_000,
    non_torch=(170_000_000, 550_000_000, 30_000_000), expert_workspace=False,
    context=CONTEXT, graph_fixed=350_000_000, graph_per_layer=12_000_000, graph_per_width=0,
    graph_per_expert_layer=0,
)  # fmt: skip
V11 = VllmConstants(
    batched_tokens=8192, sequences=1024, sampler_bytes=36.0, sampler_fixed=100_000_000,
    non_torch=(140_000_000, 580_000_000, 30_000_000), expert_workspace=False,
    context=CONTEXT, graph_fixed=100_000_000, graph_per_layer=5_000_000, graph_per_width=0,
    graph_per_expert_layer=10_000_000,
)  # fmt: skip
V19 = VllmConstants(
    batched_tokens=8192, sequences=1024, sampler_bytes=12.5, sampler_fixed=55_000_000,
    non_torch=(268_000_000, 2_225_000_000, 32_000_000), expert_workspace=True,
    context=CONTEXT, graph_fixed=215_000_000, graph_per_layer=17_500_000, graph_per_width=6500,
    graph_per_expert_layer=15_000_000,
)  # fmt: skip
V26 = V19.model_copy(update={"in_flight_batches": 2})
V28 = V26.model_copy(update={"huge_batched_tokens": 16384})


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("0.1", OLDEST), ("0.6.9", OLDEST), ("0.7", OLDEST), ("0.10.99", OLDEST), ("0.11", V11),
        ("v0.11.2rc1", V11), ("0.18.1", V11), ("0.19.0", V19), ("0.25", V19), ("0.26", V26),
        ("0.27.9", V26), ("0.28.0", V28), ("0.99", V28), ("0", OLDEST), ("1", V28), ("1.0", V28),
        ("unknown", V28), ("", V28), (None, V28),
    ],
)  # fmt: skip
def test_a_release_has_the_constants_of_the_last_known_before_it(
    version: str | None, found: VllmConstants
) -> None:
    assert vllm_constants(version, "gpu") == found


@pytest.mark.parametrize(
    ("name", "small"),
    [
        *((f"NVIDIA {name}", True) for name in (
            "A100-SXM4-80GB", "A10", "A10G", "L4", "L40S", "T4", "V100", "RTX 6000", "A40", "A30",
            "A6000", "P100", "GTX 1080", "A2")),
        *((f"NVIDIA {name}", False) for name in (
            "H100 80GB HBM3", "H200", "B200", "GH200", "A400", "T40")),
        ("gpu", False), ("", False), (None, False),
    ],
)  # fmt: skip
def test_small_products_are_known_by_name_where_their_memory_is_not(
    name: str | None, small: bool
) -> None:
    defaults = {"batched_tokens": 2048, "sequences": 256} if small else {}
    assert vllm_constants(None, name) == V28.model_copy(update=defaults)


@pytest.mark.parametrize(
    ("version", "name", "size", "tokens", "sequences"),
    [
        ("0.28", "NVIDIA H100", 70 * GIB - 1, 2048, 256),
        ("0.28", "NVIDIA H100", 70 * GIB, 8192, 1024),
        ("0.28", "NVIDIA H100", 0, 2048, 256),
        ("0.28", "NVIDIA A100", 70 * GIB, 2048, 256),
        ("0.28", "nvidia a100", 160 * GIB, 2048, 256),
        ("0.28", "NVIDIA RTX", 70 * GIB, 8192, 1024),  # memory tells more than a name
        ("0.28", None, 160 * GIB - 1, 8192, 1024),
        ("0.28", None, 160 * GIB, 16384, 1024),
        ("0.27", None, 160 * GIB, 8192, 1024),
        ("0.7", None, 160 * GIB, 2048, 256),
    ],
)
def test_defaults_follow_the_memory_of_a_device(
    version: str, name: str | None, size: int, tokens: int, sequences: int
) -> None:
    found = vllm_constants(version, name, size)
    assert (found.batched_tokens, found.sequences) == (tokens, sequences)


@pytest.mark.parametrize(
    ("runtime", "kind", "fixed", "factor", "torch"),
    [
        ("vllm", "cpu", 2_000_000_000, 1.1, None),
        ("ray_serve", "cpu", 220_000_000, 1.6, 900_000_000),
        ("triton", "cpu", 130_000_000, 1.6, None),
        ("llama_cpp", "cpu", 220_000_000, 1.05, None),
        ("ray_serve", "gpu", 900_000_000, 1.15, None),
        ("triton", "gpu", 700_000_000, 1.3, None),
        ("llama_cpp", "gpu", 600_000_000, 1.05, None),
    ],
)
def test_other_engines_have_a_base_and_a_share_of_the_weights(
    runtime: str, kind: str, fixed: int, factor: float, torch: int | None
) -> None:
    found = Overhead(fixed=fixed, weights_factor=factor, torch_fixed=torch)
    assert overhead(runtime, kind) == found


def test_reservations_have_a_margin_and_an_allowance() -> None:
    assert margin() == Margin(relative=0.03, absolute=200_000_000)
    assert allowance() == 0.01
