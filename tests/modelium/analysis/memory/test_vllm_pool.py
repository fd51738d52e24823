"""The KV pool against vLLM's own arithmetic, as ``tools/record_kv_pools.py`` recorded it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis import EngineCatalog, analyze, estimate
from modelium.analysis.memory.engine_constants import vllm_constants
from modelium.analysis.memory.vllm_pool import PoolShape, pool_bytes
from modelium.models import GIB, KVLayout, ModelProfile, RuntimeName
from tests.engines import ROOT, environment
from tests.modelium.analysis.files import write_json

RECORDED = ROOT / "tests" / "data" / "kv_pools.json"
POOLS: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text())
OVERLAPPING = 2
"""Batches in flight at once, with asynchronous scheduling."""


def profile_of(name: str, folder: Path) -> ModelProfile:
    file = write_json(folder / "config.json", POOLS[name]["config"])
    return analyze(file, engines=EngineCatalog())


@pytest.mark.parametrize("name", POOLS)
def test_one_request_of_full_length_fits_as_vllm_counts(name: str, tmp_path: Path) -> None:
    profile = profile_of(name, tmp_path)
    for tokens, batched, needed, block in POOLS[name]["rows"]:
        shape = PoolShape(in_flight_tokens=OVERLAPPING * batched)
        ours, _ = pool_bytes(profile, shape, dtype="bfloat16", max_model_len=tokens, max_num_seqs=1)
        # One block stays with the engine (vllm#47272).
        assert ours >= needed + block, (tokens, batched)
        assert ours <= 1.02 * (needed + block) + block, (tokens, batched)


def test_every_kind_of_cache_was_recorded() -> None:
    architectures = {found["config"]["architectures"][0] for found in POOLS.values()}
    assert architectures >= {
        "LlamaForCausalLM",
        "DeepseekV3ForCausalLM",  # latent
        "Gemma3ForCausalLM",  # windows
        "Gemma4ForConditionalGeneration",  # windows with wider heads
        "GptOssForCausalLM",
        "NemotronHForCausalLM",  # Mamba
        "Qwen3_5MoeForConditionalGeneration",  # gated linear attention
    }
    assert len(POOLS) >= 40


@pytest.mark.real
def test_the_installed_vllm_counts_as_recorded() -> None:
    names = ["gemma3_text__ome", "llama3_1__ome", "openai--gpt-oss-120b__aic"]
    python = environment("vllm") / "bin" / "python"
    script = ROOT / "tools" / "record_kv_pools.py"
    found = subprocess.run(
        [python, script, "--again", RECORDED, *names], check=True, stdout=subprocess.PIPE, text=True
    )
    assert json.loads(found.stdout) == {name: POOLS[name]["rows"] for name in names}


def test_windows_hold_one_batch_before_steps_overlapped(tmp_path: Path) -> None:
    profile = profile_of("gemma3_text__ome", tmp_path)

    def kv(version: str) -> int:
        return estimate(
            profile, runtime=RuntimeName.VLLM, engine_version=version, max_model_len=32768,
            max_num_seqs=1,
        ).kv  # fmt: skip

    assert kv("0.22.0") == kv("0.25.1") < kv("0.26.0") == kv("0.32.0")
    shape = PoolShape(in_flight_tokens=2 * 8192)
    assert kv("0.32.0") == max(pool_bytes(profile, shape, max_model_len=32768, max_num_seqs=1))


def test_each_device_holds_at_least_one_head(tmp_path: Path) -> None:
    profile = profile_of("llama3_1__ome", tmp_path)

    def one(degree: int) -> int:
        shape = PoolShape(tensor_parallel=degree)
        return pool_bytes(profile, shape, max_model_len=4096, max_num_seqs=1)[0]

    assert one(8) * 8 == one(1)
    assert one(16) == one(8)


@pytest.mark.parametrize("sliding", [0, 2])
def test_layers_without_heads_keep_nothing(sliding: int, tmp_path: Path) -> None:
    layout = KVLayout(full_layers=2, sliding_layers=sliding, sliding_window=64)
    empty = profile_of("llama3_1__ome", tmp_path).model_copy(update={"kv": layout})
    assert pool_bytes(empty, PoolShape(), max_model_len=4096) == (0, 0)


@pytest.mark.parametrize(
    ("version", "name", "gib", "tokens"),
    [
        ("0.32.0", "NVIDIA H100 80GB HBM3", 79.2, 8192),
        ("0.32.0", "NVIDIA L40S", 44.5, 2048),
        ("0.32.0", "NVIDIA A100-SXM4-80GB", 79.2, 2048),
        ("0.32.0", "NVIDIA RTX PRO 6000 Blackwell", 94.9, 8192),
        ("0.32.0", "NVIDIA B200", 178.4, 16384),
        ("0.27.0", "NVIDIA B200", 178.4, 8192),
        ("0.11.0", "NVIDIA H200", 139.8, 8192),
    ],
)
def test_batches_are_as_large_as_vllms_defaults_for_the_memory(
    version: str, name: str, gib: float, tokens: int
) -> None:
    assert vllm_constants(version, name, int(gib * GIB)).batched_tokens == tokens
