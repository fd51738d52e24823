"""What is tried after a start without enough memory, from log lines of real releases."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from modelium.models import GIB, LoadSettings
from runtimes.vllm.retry import smaller
from tests.fakes.nvml import FakeNvml, fake_nvml, nvml_library
from tests.runtimes.fake_vllm import Make, model, starts, words
from tests.runtimes.requests import no_progress, profile, request
from tests.runtimes.vllm.test_recipe import gpus

pytestmark = pytest.mark.slow

__all__ = ["fake_nvml", "nvml_library"]

FREE = {
    "0.11": "ValueError: Free memory on device ({free}/80.0 GiB) on startup is less than desired "
    "GPU memory utilization ({share}, {wanted} GiB). Decrease GPU memory utilization or reduce GPU "
    "memory used by other processes.",
    "0.32": "(EngineCore pid=77) ValueError: Free memory on device cuda:0 ({free}/80.0 GiB) on "
    "startup is less than desired GPU memory utilization ({share}, {wanted} GiB). Decrease GPU "
    "memory utilization or reduce GPU memory used by other processes.",
}
KV = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (9.57 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (8.31 GiB). Based on the "
    "available memory, the estimated maximum model length is 98304. Try increasing "
    "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing "
    "`max_model_len` when initializing the engine."
)


@pytest.mark.parametrize("release", FREE)
async def test_less_free_memory_lowers_the_utilization(
    make: Make, tmp_path: Path, fake_nvml: FakeNvml, release: str
) -> None:
    devices = gpus(fake_nvml, 1).snapshot()
    text = FREE[release].format(free=30.0, share=0.5, wanted=40.0)
    path = model(tmp_path, oom_starts=1, oom_text=text)
    settings = LoadSettings(
        max_model_len=8192, max_num_seqs=64, kv_cache_bytes=16 * GIB, extra_kv_bytes=12 * GIB
    )
    loaded = await make().load(
        request(
            path, devices=devices, reserve=40 * GIB, settings=settings,
            profile=profile(context_length=8192),
        ),
        progress=no_progress,
    )  # fmt: skip
    first, second = map(words, starts(path))
    assert "--gpu-memory-utilization 0.5000" in first
    assert "--gpu-memory-utilization 0.3700" in second, "30 of 80 GiB, and some slack"
    # Idle memory of the KV cache is given up; context and sequences stay.
    assert "--max-model-len 8192 --max-num-seqs 64" in second
    missing = 40 * GIB - math.ceil(0.37 * 80 * GIB)
    assert f"--kv-cache-memory-bytes {16 * GIB - missing}" in second
    assert loaded.settings is not None
    assert loaded.settings.kv_cache_bytes == 16 * GIB - missing
    assert loaded.settings.extra_kv_bytes == 12 * GIB - missing


async def test_a_start_that_works_at_once_changes_nothing(make: Make, tmp_path: Path) -> None:
    loaded = await make().load(request(model(tmp_path)), progress=no_progress)
    assert loaded.settings is None


async def test_an_adopted_engine_still_tells_what_it_was_reduced_to(
    make: Make, tmp_path: Path
) -> None:
    path = model(tmp_path, oom_starts=1)
    asked = request(path, settings=LoadSettings(max_model_len=4096, max_num_seqs=64))
    first = await make().load(asked, progress=no_progress)
    again = await make().load(asked, progress=no_progress)
    assert first.settings == again.settings
    assert again.settings is not None and again.settings.max_model_len == 2048


def test_where_idle_memory_is_not_enough_context_and_sequences_are_halved(
    fake_nvml: FakeNvml,
) -> None:
    (device,) = gpus(fake_nvml, 1).snapshot()
    asked = request(
        Path("/m"), devices=(device,), reserve=40 * GIB,
        settings=LoadSettings(max_model_len=8192, max_num_seqs=64, kv_cache_bytes=16 * GIB),
    )  # fmt: skip
    found = smaller(asked, [FREE["0.32"].format(free=32.8, share=0.5, wanted=40.0)])
    assert found is not None
    assert (found.settings.max_model_len, found.settings.max_num_seqs) == (4096, 32)
    assert found.reserve[device.id] == math.ceil(0.405 * 80 * GIB)
    assert smaller(asked, [FREE["0.32"].format(free=20.0, share=0.5, wanted=40.0)]) is None


def test_the_context_that_vllm_names_is_taken() -> None:
    asked = request(Path("/m"), settings=LoadSettings(max_model_len=131072, kv_cache_bytes=8 * GIB))
    found = smaller(asked, ["noise", KV])
    assert found is not None
    assert found.settings == asked.settings.model_copy(update={"max_model_len": 98304})
