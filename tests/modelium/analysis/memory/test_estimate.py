"""Which formulas an estimate takes, and what a measured load replaces."""

import hashlib
import json
from typing import Any

import pytest

from modelium.analysis import estimate, kv_bytes, settings_digest
from modelium.analysis.memory.engine_constants import vllm_constants
from modelium.analysis.memory.footprint import CPU_POOL
from modelium.analysis.memory.vllm import SOURCES, vllm_footprint
from modelium.analysis.memory.vllm_pool import pool_bytes
from modelium.models import (
    GIB,
    Footprint,
    LoadSettings,
    MeasuredLoad,
    ModelFormat,
    RuntimeName,
)
from tests.modelium.analysis.memory.profiles import profile_of

R = RuntimeName
MIB64 = 64 * 1024**2
ASKED: dict[str, Any] = {
    "dtype": "float32", "kv_dtype": "fp8", "max_model_len": 300, "max_num_seqs": 5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "size"), [(None, None), ("gpu", None), ("NVIDIA L4", None), ("NVIDIA B200", 180 * GIB)]
)
@pytest.mark.parametrize("version", [None, "0.7.3", "0.19.0"])
def test_vllm_on_gpus_follows_its_constants(
    kind: str | None, size: int | None, version: str | None
) -> None:
    profile = profile_of({"plain_linear": 800}, layers=2000)
    constants = vllm_constants(version, kind, size)
    engine: dict[str, Any] = {
        "engine_version": version, "device_kind": kind, "device_bytes": size, "runtime": R.VLLM,
    }  # fmt: skip
    rest = {**ASKED, "tensor_parallel": 2, "quantization": "fp8"}
    assert estimate(profile, **engine, **rest) == vllm_footprint(profile, constants, **rest)
    assert estimate(profile, **engine) == vllm_footprint(profile, constants)
    fewer = constants.model_copy(update={"batched_tokens": 512})
    assert estimate(profile, **engine, batched_tokens=512) == vllm_footprint(profile, fewer)
    none = constants.model_copy(update={"batched_tokens": 0})
    assert estimate(profile, **engine, batched_tokens=0) == vllm_footprint(profile, none)


BASES = [
    (R.TRITON, "cpu", 130_000_000, 0.6),
    (R.TRITON, "gpu", 700_000_000, 0.3),
    (R.LLAMA_CPP, "cpu", 220_000_000, 0.05),
    (R.LLAMA_CPP, "gpu", 600_000_000, 0.05),
    (R.RAY_SERVE, "cpu", 900_000_000, 0.6),
    (R.RAY_SERVE, "gpu", 900_000_000, 0.15),
    (R.VLLM, "cpu", 2_000_000_000, 0.1),
]


@pytest.mark.parametrize(("runtime", "kind", "base", "share"), BASES)
@pytest.mark.parametrize("weights", [0, 1000, 10**9])
def test_other_engines_take_a_base_and_a_share_of_the_weights(
    runtime: R, kind: str, base: int, share: float, weights: int
) -> None:
    profile = profile_of(kv=None, weight_bytes=weights)
    found = estimate(profile, runtime=runtime, device_kind=kind)
    assert found.activation == pytest.approx(weights * share, abs=1)
    total = weights + found.activation + base
    assert found == Footprint(
        weights=weights, activation=found.activation, non_torch=base, expected=total,
        reserve=int(total * 1.1) + MIB64,
        sources={
            "weights": "file headers",
            "kv": SOURCES["kv"],
            "activation": f"engines.toml: {runtime} on a {kind}, share of the weights",
            "non_torch": f"engines.toml: {runtime} on a {kind}, process",
        },
    )  # fmt: skip
    if runtime is not R.VLLM and kind == "gpu":
        assert estimate(profile, runtime=runtime) == found
        assert estimate(profile, runtime=runtime, device_kind="NVIDIA H100") == found


@pytest.mark.parametrize(
    ("form", "kind", "base"),
    [
        (ModelFormat.ONNX, "cpu", 220_000_000),
        (ModelFormat.DIFFUSERS, "cpu", 900_000_000),
        (ModelFormat.CUSTOM, "cpu", 900_000_000),
        (ModelFormat.ONNX, "gpu", 900_000_000),
    ],
)
def test_a_replica_with_torch_takes_more(form: ModelFormat, kind: str, base: int) -> None:
    found = estimate(profile_of(kv=None, format=form), runtime=R.RAY_SERVE, device_kind=kind)
    assert found.non_torch == base


def test_a_drop_of_code_may_declare_its_memory() -> None:
    declared: dict[str, Any] = {"details": {"memory_bytes": 123}, "format": ModelFormat.CUSTOM}
    for kind in ("cpu", "gpu"):
        found = estimate(profile_of(**declared), runtime=R.RAY_SERVE, device_kind=kind)
        assert found == Footprint(
            weights=123, expected=123, reserve=123, sources={"weights": "declared by the drop"}
        )
    other = profile_of(**{**declared, "format": ModelFormat.ONNX})
    assert estimate(other, runtime=R.RAY_SERVE).weights == 1000


@pytest.mark.parametrize(
    ("context", "length", "tokens"),
    [
        (3000, None, 3000),
        (4096, None, 4096),
        (5000, None, 4096),
        (None, None, 2048),
        (3000, 5000, 5000),
        (3000, 1, 1),
    ],
)
def test_engines_without_a_pool_hold_their_sequences(
    context: int | None, length: int | None, tokens: int
) -> None:
    profile = profile_of(context_length=context)
    one = kv_bytes(profile, tokens)

    def cache(runtime: R, sequences: int | None = None) -> int:
        found = estimate(
            profile, runtime=runtime, max_model_len=length, max_num_seqs=sequences,
            device_kind="cpu",
        )  # fmt: skip
        assert found.kv_least == 0
        assert found.expected == found.weights + found.activation + found.non_torch + found.kv
        return found.kv

    # llama.cpp and Triton share one cache; Ray Serve batches sequences of full length.
    assert [cache(R.LLAMA_CPP), cache(R.LLAMA_CPP, 5), cache(R.TRITON, 5)] == [one] * 3
    assert [cache(R.RAY_SERVE), cache(R.RAY_SERVE, 5)] == [one, 5 * one]


def test_a_cache_has_the_dtype_that_is_asked_for() -> None:
    profile = profile_of()
    found = estimate(profile, runtime=R.LLAMA_CPP, dtype="float32", max_model_len=100)
    assert found.kv == kv_bytes(profile, 100, dtype="float32") == 2 * kv_bytes(profile, 100)
    asked = {**ASKED, "kv_dtype": "q8_0"}
    assert estimate(profile, runtime=R.LLAMA_CPP, **asked).kv == kv_bytes(
        profile, 300, dtype="float32", kv_dtype="q8_0"
    )


@pytest.mark.parametrize("asked", [{}, ASKED])
def test_vllm_on_cpus_has_a_pool(asked: dict[str, Any]) -> None:
    profile = profile_of()
    found = estimate(profile, runtime=R.VLLM, device_kind="cpu", **asked)
    assert (found.kv, found.kv_least) == pool_bytes(profile, CPU_POOL, **asked)
    assert 0 < found.kv_least < found.kv


SETTINGS = LoadSettings(
    dtype="float32", kv_dtype="fp8", tensor_parallel_size=2, max_model_len=300, max_num_seqs=5
)


def load(**changes: Any) -> MeasuredLoad:
    values: dict[str, Any] = {
        "runtime": R.VLLM, "device_kind": "NVIDIA H100", "load_s": 60.0, "at": 1.0,
        "settings_digest": settings_digest(SETTINGS), "per_device_bytes": 11 * GIB,
    }  # fmt: skip
    return MeasuredLoad(**(values | changes))


def measured(*loads: MeasuredLoad, kind: str | None = "NVIDIA H100", **changes: Any) -> Footprint:
    asked = {**ASKED, "tensor_parallel": 2, **changes}
    return estimate(profile_of(), runtime=R.VLLM, device_kind=kind, measured=loads, **asked)


def test_a_measured_load_replaces_the_total() -> None:
    formulas = measured()
    assert measured(load()) == Footprint(
        weights=formulas.weights, kv=formulas.kv,
        non_torch=11 * GIB - formulas.weights - formulas.kv, expected=11 * GIB,
        reserve=int(11 * GIB * 1.02), kv_least=formulas.kv_least,
        sources=dict.fromkeys(SOURCES, "measured at the last load of this model"),
    )  # fmt: skip


def test_a_load_smaller_than_its_parts_is_split_into_them_in_order() -> None:
    formulas = measured()
    assert formulas.weights == 1000
    parts = [
        (found.weights, found.kv, found.non_torch)
        for size in (999, 1000, 1500, 1000 + formulas.kv, 1001 + formulas.kv)
        for found in [measured(load(per_device_bytes=size))]
    ]
    kv = formulas.kv
    assert parts == [(999, 0, 0), (1000, 0, 0), (1000, 500, 0), (1000, kv, 0), (1000, kv, 1)]


def test_the_last_load_counts() -> None:
    loads = [load(at=at, per_device_bytes=int(at) * GIB) for at in (20.0, 30.0, 10.0)]
    assert measured(*loads).expected == 30 * GIB
    other = load(at=99.0, runtime=R.RAY_SERVE)
    assert measured(*loads, other).expected == 30 * GIB


@pytest.mark.parametrize(
    ("on", "wanted", "counts"),
    [
        ("NVIDIA H100", "NVIDIA H100", True),
        ("NVIDIA H100", "NVIDIA H200", False),
        ("NVIDIA H100", "gpu", True),
        ("gpu", "gpu", True),
        ("gpu", "NVIDIA H100", False),
        ("cpu", "gpu", False),
        ("cpu", None, True),
        ("NVIDIA H100", None, True),
        ("NVIDIA H100", "cpu", False),
        ("cpu", "cpu", True),
    ],
)
def test_a_load_counts_on_its_own_kind_of_device(on: str, wanted: str | None, counts: bool) -> None:
    found = measured(load(device_kind=on), kind=wanted)
    assert (found.expected == 11 * GIB) is counts
    assert counts or found == measured(kind=wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": None},
        {"kv_dtype": None},
        {"tensor_parallel": 1},
        {"max_model_len": 301},
        {"max_num_seqs": 6},
    ],
)
def test_a_load_counts_for_its_own_settings(changes: dict[str, Any]) -> None:
    assert measured(load(), **changes) == measured(**changes)


def test_the_key_of_settings_stays_as_it_was_stored() -> None:
    values = json.dumps(["float32", "fp8", 2, 300, 5]).encode()
    assert settings_digest(SETTINGS) == hashlib.sha256(values).hexdigest()
