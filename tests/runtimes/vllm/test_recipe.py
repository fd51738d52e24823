"""The command lines of vLLM engines, and what is read from their logs and metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.config import Vllm as VllmSection
from modelium.devices.nvml import NvmlInventory
from modelium.errors import FailureKind, LoadFailed
from modelium.models import GIB, LoadSettings
from runtimes.vllm.recipe import VllmRecipe
from tests.fakes.nvml import FakeGpu, FakeNvml
from tests.runtimes.fake_vllm import Make, model, starts, words
from tests.runtimes.requests import CPU, no_progress, profile, request

pytestmark = pytest.mark.slow


def test_an_answered_request_counts_once_however_many_prompts_it_held() -> None:
    engine = VllmRecipe(config=VllmSection(enabled=True), executable="vllm")
    stats = engine.stats(
        'vllm:request_success_total{finished_reason="stop"} 24.0\n'
        'http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 3.0\n'
        'http_requests_total{handler="/v1/completions",method="POST",status="4xx"} 5.0\n'
        'http_requests_total{handler="/v1/models",method="GET",status="2xx"} 90.0\n'
    )
    assert (stats.completed, stats.http_requests) == (24, 3)
    assert engine.stats("").http_requests is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory.", FailureKind.OUT_OF_MEMORY),
        ("ValueError: No available memory for the cache blocks.", FailureKind.OUT_OF_MEMORY),
        ("Transformers does not recognize this architecture", FailureKind.UNSUPPORTED),
        ("SafetensorError: Error while deserializing header", FailureKind.BAD_FILES),
        ("pydantic: 1 validation error for ModelConfig", FailureKind.BAD_SETTINGS),
        ("vllm: error: unrecognized arguments: --x", FailureKind.BAD_SETTINGS),
        ("ModuleNotFoundError: No module named 'torch'", FailureKind.ENVIRONMENT),
        ("it just stopped", FailureKind.UNKNOWN),
    ],
)
async def test_a_failed_start_is_classified_by_its_log(
    make: Make, tmp_path: Path, text: str, kind: FailureKind
) -> None:
    path = model(tmp_path, exit_code=0, exit_text=text)
    settings = LoadSettings(max_model_len=512, max_num_seqs=1)
    with pytest.raises(LoadFailed) as failure:
        await make().load(request(path, settings=settings), progress=no_progress)
    assert failure.value.kind == kind
    assert text in str(failure.value)
    assert "hunter2" not in str(failure.value)


async def test_others_can_neither_use_an_engine_nor_have_it_fetch(
    make: Make, tmp_path: Path
) -> None:
    first, second = model(tmp_path, "first"), model(tmp_path, "second")
    await make().load(request(first), progress=no_progress)
    given = {
        "allowed_media_domains": ["b.example", "a.example"],
        "environment": {"PYTHONPATH": "/x"},
    }
    await make(**given).load(request(second), progress=no_progress)
    (closed,), (opened,) = starts(first), starts(second)
    assert "--middleware modelium_access.RequireKey" in words(closed)
    assert "--allowed-media-domains none.invalid --" in words(closed)
    assert "--allowed-media-domains a.example b.example --" in words(opened)
    assert closed["env"]["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"  # type: ignore[index]
    assert opened["env"]["PYTHONPATH"].endswith("vllm/access:/x")  # type: ignore[index]


async def test_the_key_is_not_among_the_arguments(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path)
    loaded = await make().load(request(path), progress=no_progress)
    (start,) = starts(path)
    assert loaded.upstream.api_key
    assert loaded.upstream.api_key not in words(start)
    assert start["env"]["VLLM_API_KEY"] == loaded.upstream.api_key  # type: ignore[index]
    assert loaded.upstream.api_key not in repr(loaded.upstream)


async def test_defaults_fill_what_the_plan_leaves_open(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path)
    driver = make(default_settings={"dtype": "float16", "max_model_len": 2048, "swap_space": 1})
    settings = LoadSettings(dtype="bfloat16", max_num_seqs=4)
    await driver.load(request(path, settings=settings), progress=no_progress)
    line = words(starts(path)[0])
    assert "--dtype bfloat16" in line
    assert "--max-model-len 512" in line, "cut to the model's own context"
    assert "--max-num-seqs 4" in line
    assert "--swap-space=1" in line
    assert "--trust-remote-code" not in line


async def test_remote_code_runs_only_with_approval(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path)
    await make().load(request(path, allow_remote_code=True), progress=no_progress)
    assert "--trust-remote-code" in words(starts(path)[0])


@pytest.mark.parametrize("name", ["swap_space", "trust-remote-code", "api_key"])
async def test_arguments_that_are_not_allowed_are_refused(
    make: Make, tmp_path: Path, name: str
) -> None:
    driver = make(allowed_extra=["trust_remote_code", "api-key"])
    path = model(tmp_path)
    settings = LoadSettings(extra={name: "x"})
    with pytest.raises(LoadFailed, match="not allowed") as failure:
        await driver.load(request(path, settings=settings), progress=no_progress)
    assert failure.value.kind == FailureKind.BAD_SETTINGS
    assert starts(path) == []


async def test_on_a_cpu_the_kv_cache_is_what_the_reservation_leaves(
    make: Make, tmp_path: Path
) -> None:
    path = model(tmp_path)
    await make().load(request(path, reserve=3 * GIB), progress=no_progress)
    assert f"--kv-cache-memory-bytes {3 * GIB - 2**20 - 3 * GIB // 2}" in words(starts(path)[0])


def gpus(fake: FakeNvml, count: int) -> NvmlInventory:
    for number in range(count):
        fake.add(FakeGpu(uuid=f"GPU-{number}"))
    return NvmlInventory(node="n")


async def test_gpus_are_pinned_and_never_more_is_taken_than_was_booked(
    make: Make, tmp_path: Path, fake_nvml: FakeNvml
) -> None:
    inventory = gpus(fake_nvml, 3)
    devices = inventory.snapshot()[1:]
    path = model(tmp_path)
    await make(inventory=inventory).load(
        request(
            path,
            devices=devices,
            reserve=30 * GIB,
            settings=LoadSettings(tensor_parallel_size=2),
        ),
        progress=no_progress,
    )
    (start,) = starts(path)
    # The fake engine's release is unknown, so its UUIDs are not proven.
    assert start["env"]["CUDA_VISIBLE_DEVICES"] == "1,2"  # type: ignore[index]
    assert start["env"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # type: ignore[index]
    assert "--tensor-parallel-size 2 --gpu-memory-utilization 0.3750" in words(start)


async def test_as_many_devices_are_needed_as_the_model_is_split_over(
    make: Make, tmp_path: Path
) -> None:
    settings = LoadSettings(tensor_parallel_size=2)
    with pytest.raises(LoadFailed, match="as many devices"):
        await make().load(request(model(tmp_path), settings=settings), progress=no_progress)


async def test_the_default_context_is_limited_by_the_profile(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path)
    driver = make(default_settings={"max_model_len": 100_000})
    await driver.load(
        request(path, devices=(CPU,), profile=profile(context_length=2048)), progress=no_progress
    )
    assert "--max-model-len 2048" in words(starts(path)[0])
