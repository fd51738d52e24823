"""The memory estimate: against what engines reported, and what must hold for every model."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.estimator import PUBLISHED
from modelium.analysis import EngineCatalog, analyze, estimate, kv_bytes, settings_digest
from modelium.models import GIB, Footprint, LoadSettings, MeasuredLoad, ModelProfile, RuntimeName
from tests.modelium.analysis.files import LLAMA, gguf_folder, onnx_model, write_json

R = RuntimeName
LLAMA8 = "meta-llama/Llama-3.1-8B-Instruct"
CONTEXT = 552_000_000
"""Bytes of CUDA's own in each process (552,402,944 on an H200)."""


def of(tmp_path: Path, name: str | dict[str, Any] = LLAMA8) -> ModelProfile:
    config = PUBLISHED[name] if isinstance(name, str) else name
    return analyze(write_json(tmp_path / "config.json", config), engines=EngineCatalog())


@pytest.fixture(scope="module")
def llama8(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return of(tmp_path_factory.mktemp("llama8"))


REPORTED = [
    # Start-up reports of vLLM 0.19.0 on an H100, GiB per GPU: weights, then footprint
    # (weights, activation, non-torch and CUDA graphs).
    ("codellama/CodeLlama-7b-hf", 1, None, 12.56, 14.47),
    ("google/gemma-3-12b-it", 1, None, 23.31, 28.44),
    ("google/gemma-7b", 1, None, 15.91, 20.73),
    (LLAMA8, 1, None, 14.99, 18.04),
    (LLAMA8, 1, "float32", 29.98, 33.23),
    (LLAMA8, 2, None, 7.51, 12.23),
    (LLAMA8, 4, None, 3.77, 8.46),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 4, None, 53.12, 59.61),
    ("microsoft/phi-2", 1, None, 5.19, 6.98),
    ("moonshotai/Kimi-VL-A3B-Instruct", 1, None, 30.74, 35.41),
    ("moonshotai/Kimi-VL-A3B-Instruct", 2, None, 15.53, 21.71),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", 1, None, 5.38, 8.48),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", 1, None, 8.49, 11.57),
]


@pytest.mark.parametrize(("name", "degree", "dtype", "weights", "footprint"), REPORTED)
@pytest.mark.parametrize("max_num_seqs", [None, 256])
def test_reported_memory_is_predicted(
    tmp_path: Path,
    name: str,
    degree: int,
    dtype: str | None,
    weights: float,
    footprint: float,
    max_num_seqs: int | None,
) -> None:
    found = estimate(
        of(tmp_path, name), runtime=R.VLLM, tensor_parallel=degree, dtype=dtype,
        max_model_len=8192, max_num_seqs=max_num_seqs, engine_version="0.19.0",
    )  # fmt: skip
    assert found.weights / GIB == pytest.approx(weights, rel=0.01)
    # The reports leave CUDA's context out.
    predicted = (found.expected - found.kv - CONTEXT) / GIB
    assert 0.98 * footprint <= predicted <= 1.05 * footprint
    assert (found.reserve - found.kv - CONTEXT) / GIB >= footprint


def test_an_engine_that_was_measured_with_its_weights_takes_no_more(llama8: ModelProfile) -> None:
    # vLLM 0.26.0 on an H200, by the driver: with weights of 14.97 GiB, before its profile run.
    found = estimate(llama8, runtime=R.VLLM, engine_version="0.26.0", device_kind="NVIDIA H200")
    assert found.weights + found.non_torch >= 16_020 * 2**20


def test_parts_add_up_and_name_their_sources(llama8: ModelProfile) -> None:
    found = estimate(llama8, runtime=R.VLLM)
    assert found.expected == (
        found.weights + found.kv + found.activation + found.graphs + found.non_torch
    )
    assert found.reserve > found.expected
    assert set(found.sources) == {"weights", "kv", "activation", "graphs", "non_torch"}


def test_online_quantization_converts_linear_layers_alone(llama8: ModelProfile) -> None:
    for found in (
        estimate(llama8, runtime=R.VLLM, quantization="fp8"),
        estimate(llama8, runtime=R.VLLM, dtype="fp8"),
    ):
        assert found.weights / GIB == pytest.approx(8.49, rel=0.01)


def test_an_fp8_cache_is_half_as_large(llama8: ModelProfile) -> None:
    assert kv_bytes(llama8, 1000, kv_dtype="fp8") * 2 == kv_bytes(llama8, 1000)
    assert kv_bytes(llama8, 1000, dtype="float32") == 2 * kv_bytes(llama8, 1000)
    # Reported: 58.11 GiB hold 476 000 tokens.
    assert kv_bytes(llama8, 476_000) == pytest.approx(58.11 * GIB, rel=0.001)


def test_the_cache_is_split_down_to_one_head_each(llama8: ModelProfile) -> None:
    whole = kv_bytes(llama8, 1000)
    assert kv_bytes(llama8, 1000, tensor_parallel=8) * 8 == whole
    assert kv_bytes(llama8, 1000, tensor_parallel=16) * 8 == whole


def test_a_latent_cache_is_not_split(tmp_path: Path) -> None:
    profile = of(tmp_path, "moonshotai/Kimi-VL-A3B-Instruct")
    assert kv_bytes(profile, 1000, tensor_parallel=4) == kv_bytes(profile, 1000)


def test_windowed_layers_stop_growing(tmp_path: Path) -> None:
    profile = of(tmp_path, "google/gemma-3-12b-it")
    per_layer = 2 * 8 * 256 * 2
    assert kv_bytes(profile, 1000) == 48 * 1000 * per_layer
    assert kv_bytes(profile, 9000) == (8 * 9000 + 40 * 1024) * per_layer


def test_the_pool_holds_one_long_sequence_or_many_typical_ones(llama8: ModelProfile) -> None:
    one = estimate(llama8, runtime=R.VLLM, max_model_len=8192, max_num_seqs=1)
    many = estimate(llama8, runtime=R.VLLM, max_model_len=8192, max_num_seqs=64)
    block = kv_bytes(llama8, 64)
    assert one.kv == kv_bytes(llama8, 8192) + block
    assert many.kv == 64 * kv_bytes(llama8, 1024) + block


def test_more_sequences_than_the_default_need_more_for_sampling(llama8: ModelProfile) -> None:
    usual = estimate(llama8, runtime=R.VLLM, engine_version="0.19.0")
    more = estimate(llama8, runtime=R.VLLM, engine_version="0.19.0", max_num_seqs=2048)
    assert more.activation > 1.8 * usual.activation


def test_constants_follow_the_engines_version(llama8: ModelProfile) -> None:
    def activation(version: str | None) -> int:
        return estimate(llama8, runtime=R.VLLM, engine_version=version).activation

    assert activation("0.11.2") / GIB == pytest.approx(4.76, rel=0.02)
    assert activation("0.19.0") / GIB == pytest.approx(1.89, rel=0.02)
    assert activation("0.15.1") == activation("0.11")
    assert activation("1.2") == activation(None) == activation("") == activation("0.19.0")
    assert activation("0.1") == activation("0.7.x")


def test_smaller_gpus_have_smaller_defaults(llama8: ModelProfile) -> None:
    large = estimate(llama8, runtime=R.VLLM, device_kind="NVIDIA H100 80GB HBM3")
    small = estimate(llama8, runtime=R.VLLM, device_kind="NVIDIA L4")
    assert small.activation < 0.5 * large.activation
    assert large == estimate(llama8, runtime=R.VLLM, device_kind="gpu")


def test_float32_files_are_halved_as_engines_do(tmp_path: Path) -> None:
    config = {**PUBLISHED[LLAMA8], "torch_dtype": "float32"}
    profile = of(tmp_path, config)
    assert profile.weight_bytes / GIB == pytest.approx(29.9, rel=0.01)
    assert estimate(profile, runtime=R.VLLM).weights / GIB == pytest.approx(14.99, rel=0.01)
    whole = estimate(profile, runtime=R.VLLM, dtype="float32")
    assert whole.weights / GIB == pytest.approx(29.98, rel=0.01)


MEASURED = LoadSettings(tensor_parallel_size=2, max_model_len=8192)


def test_a_load_on_any_product_counts_for_gpus_in_general(llama8: ModelProfile) -> None:
    assert measured(llama8, load(device_kind="NVIDIA H100")).expected == 11 * GIB


def load(**changes: Any) -> MeasuredLoad:
    values: dict[str, Any] = {
        "runtime": R.VLLM, "device_kind": "gpu", "settings_digest": settings_digest(MEASURED),
        "per_device_bytes": 11 * GIB, "load_s": 60.0, "at": 1.0,
    }  # fmt: skip
    return MeasuredLoad(**(values | changes))


def measured(
    profile: ModelProfile, *loads: MeasuredLoad, batched_tokens: int | None = None
) -> Footprint:
    return estimate(
        profile, runtime=R.VLLM, tensor_parallel=2, max_model_len=8192, device_kind="gpu",
        measured=loads, batched_tokens=batched_tokens,
    )  # fmt: skip


def test_a_models_own_last_load_takes_over(llama8: ModelProfile) -> None:
    found = measured(llama8, load(at=2.0, per_device_bytes=12 * GIB), load())
    assert found.expected == 12 * GIB
    assert found.reserve == pytest.approx(1.02 * 12 * GIB, rel=1e-6)
    assert found.weights + found.kv + found.non_torch == found.expected
    assert "last load" in found.sources["weights"]


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime": R.RAY_SERVE},
        {"device_kind": "cpu"},
        {"settings_digest": settings_digest(LoadSettings())},
    ],
)
def test_loads_under_other_conditions_do_not_count(
    llama8: ModelProfile, changes: dict[str, Any]
) -> None:
    assert measured(llama8, load(**changes)) == measured(llama8)


def test_the_digest_of_settings_ignores_what_does_not_cost_memory() -> None:
    assert settings_digest(LoadSettings(extra={"seed": 1})) == settings_digest(LoadSettings())
    assert settings_digest(LoadSettings(max_num_seqs=1)) != settings_digest(LoadSettings())


def test_a_load_counts_for_its_own_batch_size(llama8: ModelProfile) -> None:
    small = MEASURED.model_copy(update={"extra": {"max_num_batched_tokens": 512}})
    measured_small = load(settings_digest=settings_digest(small))
    assert measured(llama8, measured_small) == measured(llama8)
    assert measured(llama8, load(), batched_tokens=512) == measured(llama8, batched_tokens=512)
    own = measured(llama8, measured_small, batched_tokens=512)
    assert own != measured(llama8, batched_tokens=512)


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 300_000), more=st.integers(0, 100_000))
def test_longer_contexts_never_cost_less(llama8: ModelProfile, tokens: int, more: int) -> None:
    assert kv_bytes(llama8, tokens + more) >= kv_bytes(llama8, tokens)


@pytest.mark.parametrize("runtime", list(RuntimeName))
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_runtime_has_an_estimate_above_the_weights(
    tmp_path: Path, runtime: RuntimeName, device: str
) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "model.onnx").write_bytes(onnx_model())
    for profile in (
        analyze(tmp_path / "o"),
        analyze(gguf_folder(tmp_path / f"g{device}")),
        of(tmp_path, LLAMA),
    ):
        found = estimate(profile, runtime=runtime, device_kind=device)
        assert found.reserve >= found.expected > profile.weight_bytes


def test_a_tiny_model_on_a_cpu_takes_what_its_process_takes(tmp_path: Path) -> None:
    # vLLM's CPU build with a tiny Llama was measured at 1.4–1.5 GB.
    found = estimate(of(tmp_path, LLAMA), runtime=R.VLLM, device_kind="cpu", max_model_len=512)
    assert 1.4e9 < found.expected < 2.2e9


def test_embedding_models_keep_no_cache_and_no_graphs(tmp_path: Path) -> None:
    profile = of(tmp_path, {**LLAMA, "architectures": ["BertModel"], "model_type": "bert"})
    found = estimate(profile, runtime=R.VLLM)
    assert found.kv == found.graphs == 0
