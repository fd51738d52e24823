"""The vLLM driver over the fake engine: faults that a real engine cannot be made to have."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from modelium.clock import SystemClock
from modelium.config import Vllm as VllmSection
from modelium.devices.nvml import NvmlInventory
from modelium.errors import FailureKind, LoadFailed, Unavailable
from modelium.models import GIB, LoadSettings
from runtimes.engines.driver import EngineDriver
from runtimes.process import proc
from runtimes.vllm.driver import vllm_driver
from runtimes.vllm.engine import VllmEngine
from tests.fakes.nvml import FakeGpu, FakeNvml, fake_nvml, nvml_library
from tests.runtimes.requests import CPU, Inventory, no_progress, profile, request

__all__ = ["fake_nvml", "nvml_library"]

ENGINE = Path(__file__).parents[2] / "fakes" / "engine.py"
Make = Callable[..., EngineDriver]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Builds drivers over one state directory, as restarts of Modelium would."""
    command = tmp_path / "vllm-command"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {ENGINE} "$@"\n')
    command.chmod(0o755)
    made: list[EngineDriver] = []

    def build(
        inventory: object = None, no_progress_s: float = 300.0, **section: object
    ) -> EngineDriver:
        config = VllmSection.model_validate(
            {"enabled": True, "executable": str(command), "base_port": 0} | section
        )
        driver = vllm_driver(
            config=config,
            state_directory=tmp_path,
            clock=SystemClock(),
            devices=inventory or Inventory(),  # type: ignore[arg-type]
            no_progress_s=no_progress_s,
        )
        made.append(driver)
        return driver

    yield build
    last = build()
    for running in await last.discover({}):
        await last.unload(running.model, handle=running.handle, grace_s=0)
    for driver in made:
        await driver.__aexit__()
    assert list((tmp_path / "vllm").glob("*.json")) == []


def model(folder: Path, name: str = "m", **behaviour: object) -> Path:
    path = folder / name
    path.mkdir()
    (path / "fake.json").write_text(json.dumps(behaviour))
    return path


def starts(path: Path) -> list[dict[str, object]]:
    file = path / "starts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def words(start: dict[str, object]) -> str:
    return " ".join(start["argv"])  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it watches processes
            await asyncio.sleep(0.05)


async def complete(loaded: object) -> httpx.Response:
    upstream = loaded.upstream  # type: ignore[attr-defined]
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.post(
            f"{upstream.base_url}/v1/completions",
            json={"model": upstream.served_name, "prompt": "a"},
            headers={"Authorization": f"Bearer {upstream.api_key}"},
        )


def test_an_answered_request_counts_once_however_many_prompts_it_held() -> None:
    engine = VllmEngine(config=VllmSection(enabled=True), executable="vllm")
    stats = engine.stats(
        'vllm:request_success_total{finished_reason="stop"} 24.0\n'
        'http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 3.0\n'
        'http_requests_total{handler="/v1/completions",method="POST",status="4xx"} 5.0\n'
        'http_requests_total{handler="/v1/models",method="GET",status="2xx"} 90.0\n'
    )
    assert (stats.completed, stats.http_requests) == (24, 3)
    assert engine.stats("").http_requests is None


async def test_a_loaded_model_answers_and_its_counters_move(make: Make, tmp_path: Path) -> None:
    driver = make()
    phases: list[str] = []
    loaded = await driver.load(
        request(model(tmp_path, start_s=0.5)), progress=lambda phase, _: phases.append(phase)
    )
    assert (await complete(loaded)).status_code == 200
    assert phases[0] == "starting"
    assert "loading weights" in phases
    stats = (await driver.stats())["m"]
    assert (stats.completed, stats.generated_tokens) == (2, 6), "ours and the driver's probe"
    assert stats.last_inference_at is not None
    assert stats.resident_bytes and stats.resident_bytes > 2**20


async def test_a_second_load_joins_the_first_and_a_third_finds_it_loaded(
    make: Make, tmp_path: Path
) -> None:
    driver, path = make(), model(tmp_path, start_s=0.5)
    first, second = await asyncio.gather(
        driver.load(request(path), progress=no_progress),
        driver.load(request(path), progress=no_progress),
    )
    third = await driver.load(request(path), progress=no_progress)
    assert first == second == third
    assert len(starts(path)) == 1


async def test_another_version_is_not_taken_for_the_loaded_one(make: Make, tmp_path: Path) -> None:
    driver, path = make(), model(tmp_path)
    await driver.load(request(path), progress=no_progress)
    with pytest.raises(LoadFailed, match="unload it first"):
        await driver.load(request(path, version=2), progress=no_progress)


async def test_cancelling_one_of_two_who_wait_does_not_end_the_load(
    make: Make, tmp_path: Path
) -> None:
    driver, path = make(), model(tmp_path, start_s=0.5)
    first = asyncio.create_task(driver.load(request(path), progress=no_progress))
    second = asyncio.create_task(driver.load(request(path), progress=no_progress))
    await until(lambda: bool(starts(path)))
    first.cancel()
    assert (await second).upstream.served_name == "m"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_cancelling_a_load_leaves_no_process_behind(make: Make, tmp_path: Path) -> None:
    driver, path = make(), model(tmp_path, hang=True, ignore_term=True, fork=1, escape=True)
    load = asyncio.create_task(driver.load(request(path), progress=no_progress))
    await until(lambda: bool(starts(path)))
    (running,) = await driver.discover({})
    assert running.state == "loading"
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert await driver.discover({}) == []
    token = starts(path)[0]["env"]["MODELIUM_ENGINE"]  # type: ignore[index]
    assert not any(proc.carries(pid, "MODELIUM_ENGINE", token) for pid in proc.snapshot())


async def test_unloading_what_is_loading_ends_the_load_with_that_reason(
    make: Make, tmp_path: Path
) -> None:
    driver, path = make(), model(tmp_path, hang=True)
    load = asyncio.create_task(driver.load(request(path), progress=no_progress))
    await until(lambda: bool(starts(path)))
    await driver.unload("m", handle={}, grace_s=1)
    with pytest.raises(LoadFailed, match="unloaded while") as failure:
        await load
    assert failure.value.kind == FailureKind.KILLED


async def test_unloading_twice_or_the_unknown_is_fine(make: Make, tmp_path: Path) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path)), progress=no_progress)
    await driver.unload("m", handle=loaded.handle, grace_s=5)
    await driver.unload("m", handle=loaded.handle, grace_s=5)
    await driver.unload("never-seen", handle={}, grace_s=5)
    assert await driver.discover({"m": loaded.handle}) == []


async def test_a_request_in_flight_is_finished_before_the_engine_ends(
    make: Make, tmp_path: Path
) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path, answer_s=1.0)), progress=no_progress)
    answer = asyncio.create_task(complete(loaded))
    while not (await driver.stats())["m"].running:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    await driver.unload("m", handle=loaded.handle, grace_s=20)
    assert (await answer).status_code == 200


async def test_a_stubborn_engine_with_children_is_gone_after_the_grace(
    make: Make, tmp_path: Path
) -> None:
    driver = make()
    path = model(tmp_path, ignore_term=True, fork=2, escape=True)
    loaded = await driver.load(request(path), progress=no_progress)
    (running,) = await driver.discover({})
    assert len(running.pids) == 3, "the escaped one is found at the end only"
    await driver.unload("m", handle=loaded.handle, grace_s=0.3)
    token = loaded.handle["token"]
    assert not any(proc.carries(pid, "MODELIUM_ENGINE", token) for pid in proc.snapshot())


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
async def test_why_an_engine_died_is_told_by_its_last_words(
    make: Make, tmp_path: Path, text: str, kind: FailureKind
) -> None:
    path = model(tmp_path, exit_code=0, exit_text=text)
    settings = LoadSettings(max_model_len=512, max_num_seqs=1)
    with pytest.raises(LoadFailed) as failure:
        await make().load(request(path, settings=settings), progress=no_progress)
    assert failure.value.kind == kind
    assert text in str(failure.value)
    assert "hunter2" not in str(failure.value)


async def test_a_killed_start_is_told_as_killed(make: Make, tmp_path: Path) -> None:
    driver, path = make(), model(tmp_path, hang=True)
    load = asyncio.create_task(driver.load(request(path), progress=no_progress))
    await until(lambda: bool(starts(path)))
    (running,) = await driver.discover({})
    os.kill(running.pids[0], signal.SIGKILL)
    with pytest.raises(LoadFailed) as failure:
        await load
    assert failure.value.kind == FailureKind.KILLED


async def test_out_of_memory_is_tried_once_more_with_less(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path, oom_starts=1)
    settings = LoadSettings(max_model_len=4096, max_num_seqs=64)
    await make().load(request(path, settings=settings), progress=no_progress)
    first, second = map(words, starts(path))
    assert "--max-model-len 4096 --max-num-seqs 64" in first
    assert "--max-model-len 2048 --max-num-seqs 32" in second


async def test_out_of_memory_twice_is_the_answer(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path, oom_starts=9)
    with pytest.raises(LoadFailed) as failure:
        await make().load(request(path), progress=no_progress)
    assert failure.value.kind == FailureKind.OUT_OF_MEMORY
    assert len(starts(path)) == 2


async def test_a_port_that_was_snatched_is_given_up_for_another(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path, port_taken_starts=2)
    await make().load(request(path), progress=no_progress)
    assert len(starts(path)) == 3


async def test_a_start_that_gets_nowhere_is_stuck(make: Make, tmp_path: Path) -> None:
    driver = make(no_progress_s=1.0)
    with pytest.raises(LoadFailed, match="got no further") as failure:
        await driver.load(request(model(tmp_path, hang=True)), progress=no_progress)
    assert failure.value.kind == FailureKind.STUCK
    assert await driver.discover({}) == []


async def test_a_start_past_its_deadline_is_ended(make: Make, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="did not answer within"):
        await make().load(
            request(model(tmp_path, start_s=60), deadline_s=1.0), progress=no_progress
        )


async def test_an_engine_that_serves_another_name_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="instead of m"):
        await make().load(request(model(tmp_path, claims="other")), progress=no_progress)


@pytest.mark.parametrize("behaviour", [{"fail_requests": True}, {"die_after": 1}])
async def test_an_engine_that_fails_its_first_request_is_not_ready(
    make: Make, tmp_path: Path, behaviour: dict[str, object]
) -> None:
    driver = make()
    with pytest.raises(LoadFailed):
        await driver.load(request(model(tmp_path, **behaviour)), progress=no_progress)
    assert await driver.discover({}) == []


async def test_an_impostor_on_the_port_is_not_the_model(make: Make, tmp_path: Path) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path)), progress=no_progress)
    with contextlib.closing(socket.socket()) as impostor:
        impostor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        impostor.bind(("127.0.0.1", 0))
        impostor.listen()
        forged = {**loaded.handle, "port": impostor.getsockname()[1]}
        record = tmp_path / "vllm/m.json"
        record.write_text(json.dumps(forged))
        (running,) = await make().discover({"m": forged})
    assert running.state == "loading"
    assert "nothing of it listens" in running.detail
    record.write_text(json.dumps(loaded.handle))


async def test_after_a_restart_live_models_are_adopted_and_still_serve(
    make: Make, tmp_path: Path
) -> None:
    before = make()
    loaded = await before.load(request(model(tmp_path)), progress=no_progress)
    await before.__aexit__()

    after = make()
    (running,) = await after.discover({"m": loaded.handle})

    assert (running.state, running.upstream) == ("ready", loaded.upstream)
    assert (await complete(loaded)).status_code == 200
    assert (await after.stats())["m"].completed == 2
    assert await after.load(request(tmp_path / "m"), progress=no_progress) == loaded


async def test_an_engine_that_the_store_never_heard_of_is_found(make: Make, tmp_path: Path) -> None:
    await make().load(request(model(tmp_path)), progress=no_progress)
    (running,) = await make().discover({})
    assert (running.model, running.state) == ("m", "ready")


async def test_a_model_whose_engine_died_is_absent_and_its_children_are_cleared(
    make: Make, tmp_path: Path
) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path, fork=1)), progress=no_progress)
    (before,) = await driver.discover({})
    os.kill(loaded.handle["pid"], signal.SIGKILL)
    await until(lambda: not (e := proc.entry(loaded.handle["pid"])) or not e.lives)

    assert await driver.discover({"m": loaded.handle}) == []

    for pid in before.pids:
        entry = proc.entry(pid)
        assert entry is None or not entry.lives
    await driver.load(request(tmp_path / "m"), progress=no_progress)


async def test_an_engine_that_ends_with_status_0_under_traffic_is_noticed(
    make: Make, tmp_path: Path
) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path, die_after=2)), progress=no_progress)
    with pytest.raises(httpx.HTTPError):
        await complete(loaded)
    await until(lambda: not (e := proc.entry(loaded.handle["pid"])) or not e.lives)
    assert await driver.discover({"m": loaded.handle}) == []


async def test_an_engine_that_falls_ill_is_unhealthy(make: Make, tmp_path: Path) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path)), progress=no_progress)
    os.kill(loaded.handle["pid"], signal.SIGSTOP)
    (running,) = await driver.discover({"m": loaded.handle})
    os.kill(loaded.handle["pid"], signal.SIGCONT)
    assert running.state == "unhealthy"
    assert "/health" in running.detail


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


async def test_sleep_and_wake_are_states_that_survive_a_restart(make: Make, tmp_path: Path) -> None:
    driver = make(default_settings={"enable_sleep_mode": True})
    loaded = await driver.load(request(model(tmp_path)), progress=no_progress)
    await driver.sleep("m", handle=loaded.handle)
    await driver.sleep("m", handle=loaded.handle)
    other = make(default_settings={"enable_sleep_mode": True})
    (running,) = await other.discover({"m": loaded.handle})
    assert running.state == "sleeping"
    await other.wake("m", handle=loaded.handle)
    (running,) = await driver.discover({})
    assert running.state == "ready"
    with pytest.raises(Unavailable, match="load it first"):
        await driver.sleep("another", handle={})


async def test_status_tells_what_to_set_where_the_command_is_missing(make: Make) -> None:
    assert (await make().status()).healthy
    status = await make(executable="/nonexistent/vllm").status()
    assert not status.healthy
    assert "vllm.executable" in status.detail


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
    assert start["env"]["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"  # type: ignore[index]
    assert "--tensor-parallel-size 2 --gpu-memory-utilization 0.3750" in words(start)


async def test_as_many_devices_are_needed_as_the_model_is_split_over(
    make: Make, tmp_path: Path
) -> None:
    settings = LoadSettings(tensor_parallel_size=2)
    with pytest.raises(LoadFailed, match="as many devices"):
        await make().load(request(model(tmp_path), settings=settings), progress=no_progress)


async def test_an_unload_ends_when_the_gpu_memory_is_back(
    make: Make, tmp_path: Path, fake_nvml: FakeNvml
) -> None:
    inventory = gpus(fake_nvml, 1)
    path = model(tmp_path, gpu="GPU-0", gpu_bytes=20 * GIB, fork=1)
    driver = make(inventory=inventory, environment=fake_nvml.environment())
    loaded = await driver.load(
        request(path, devices=inventory.snapshot(), reserve=30 * GIB), progress=no_progress
    )
    assert inventory.snapshot()[0].free_bytes == 60 * GIB
    (running,) = await driver.discover({})
    held = {process.pid for process in inventory.snapshot()[0].processes}
    assert held <= set(running.pids)
    await driver.unload("m", handle=loaded.handle, grace_s=5)
    assert inventory.snapshot()[0].free_bytes == 80 * GIB


async def test_starts_on_one_gpu_wait_for_each_other_and_others_do_not(
    make: Make, tmp_path: Path, fake_nvml: FakeNvml
) -> None:
    inventory = gpus(fake_nvml, 2)
    first, second = inventory.snapshot()
    driver = make(inventory=inventory)
    hung = asyncio.create_task(
        driver.load(
            request(model(tmp_path, "a", hang=True), devices=(first,)), progress=no_progress
        )
    )
    await until(lambda: bool(starts(tmp_path / "a")))
    phases: list[str] = []
    waiting = asyncio.create_task(
        driver.load(
            request(model(tmp_path, "b"), devices=(first,)),
            progress=lambda phase, _: phases.append(phase),
        )
    )
    await driver.load(request(model(tmp_path, "c"), devices=(second,)), progress=no_progress)
    assert phases == ["waiting for the device"]
    assert starts(tmp_path / "b") == []
    hung.cancel()
    await waiting
    assert len(starts(tmp_path / "b")) == 1


async def test_a_load_on_the_cpu_is_told_its_context_from_the_profile(
    make: Make, tmp_path: Path
) -> None:
    path = model(tmp_path)
    driver = make(default_settings={"max_model_len": 100_000})
    await driver.load(
        request(path, devices=(CPU,), profile=profile(context_length=2048)), progress=no_progress
    )
    assert "--max-model-len 2048" in words(starts(path)[0])
