"""Loading, unloading and adoption of engine processes, driven over the fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from modelium.clock import SystemClock
from modelium.devices.nvml import NvmlInventory
from modelium.errors import FailureKind, LoadFailed
from modelium.models import GIB, LoadSettings
from modelium.ports import Loaded
from runtimes.engines import driver as driver_module
from runtimes.engines.driver import EngineDriver
from runtimes.process import proc
from tests.fakes.nvml import FakeGpu, FakeNvml
from tests.runtimes.conditions import until
from tests.runtimes.fake_vllm import Make, Skipping, complete, model, starts, words
from tests.runtimes.requests import no_progress, request

pytestmark = pytest.mark.slow


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


async def test_cancelling_one_of_two_callers_does_not_end_the_load(
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
    assert not any(proc.has_variable(pid, "MODELIUM_ENGINE", token) for pid in proc.snapshot())


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


async def test_unloading_twice_or_an_unknown_model_does_nothing(make: Make, tmp_path: Path) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path)), progress=no_progress)
    await driver.unload("m", handle=loaded.handle, grace_s=5)
    await driver.unload("m", handle=loaded.handle, grace_s=5)
    await driver.unload("never-seen", handle={}, grace_s=5)
    assert await driver.discover({"m": loaded.handle}) == []


async def request_in_flight(driver: EngineDriver, loaded: Loaded) -> asyncio.Task[httpx.Response]:
    """Send requests, one at a time, until one is seen in the engine's counters."""
    while True:
        answer = asyncio.create_task(complete(loaded))
        while not answer.done():
            if (await driver.stats())["m"].running:
                return answer
        assert (await answer).status_code == 200


async def test_a_request_in_flight_is_finished_before_the_engine_ends(
    make: Make, tmp_path: Path
) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path, answer_s=1.0)), progress=no_progress)
    answer = await request_in_flight(driver, loaded)
    await driver.unload("m", handle=loaded.handle, grace_s=20)
    assert (await answer).status_code == 200


async def test_a_stubborn_engine_with_children_is_gone_after_the_grace(
    make: Make, tmp_path: Path
) -> None:
    # With shorter pauses it would be seen before it escapes.
    driver = make(clock=SystemClock())
    path = model(tmp_path, ignore_term=True, fork=2, escape=True)
    loaded = await driver.load(request(path), progress=no_progress)
    (running,) = await driver.discover({})
    assert len(running.pids) == 3, "the escaped one is found at the end only"
    await driver.unload("m", handle=loaded.handle, grace_s=0.3)
    token = loaded.handle["token"]
    assert not any(proc.has_variable(pid, "MODELIUM_ENGINE", token) for pid in proc.snapshot())


async def test_out_of_memory_is_retried_once_with_less(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path, oom_starts=1)
    settings = LoadSettings(max_model_len=4096, max_num_seqs=64)
    await make().load(request(path, settings=settings), progress=no_progress)
    first, second = map(words, starts(path))
    assert "--max-model-len 4096 --max-num-seqs 64" in first
    assert "--max-model-len 2048 --max-num-seqs 32" in second


async def test_another_program_on_the_port_is_not_taken_for_the_model(
    make: Make, tmp_path: Path
) -> None:
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
    assert "none of its processes listens" in running.detail
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


async def test_a_model_whose_engine_died_is_absent_and_its_children_are_cleared(
    make: Make, tmp_path: Path
) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path, fork=1)), progress=no_progress)
    (before,) = await driver.discover({})
    os.kill(loaded.handle["pid"], signal.SIGKILL)
    await until(lambda: not (e := proc.entry(loaded.handle["pid"])) or not e.alive)

    assert await driver.discover({}) == [], "a store that does not have it needs no report"
    for pid in before.pids:
        entry = proc.entry(pid)
        assert entry is None or not entry.alive
    await driver.load(request(tmp_path / "m"), progress=no_progress)


async def test_an_engine_that_ends_with_status_0_under_traffic_is_noticed(
    make: Make, tmp_path: Path
) -> None:
    driver = make()
    loaded = await driver.load(request(model(tmp_path, die_after=2)), progress=no_progress)
    with pytest.raises(httpx.HTTPError):
        await complete(loaded)
    await until(lambda: not (e := proc.entry(loaded.handle["pid"])) or not e.alive)
    (gone,) = await driver.discover({"m": loaded.handle})
    assert (gone.state, gone.detail) == ("unhealthy", "its engine exited with status 0")
    assert await driver.discover({"m": loaded.handle}) == []


QUICK = {"unhealthy_after_seconds": 0.9}
"""A look at a silent engine takes a third of it; the clock is moved where more has to pass."""


async def state_after(
    driver: EngineDriver, loaded: Loaded, clock: Skipping, skipped_s: float
) -> str:
    clock.skipped += skipped_s
    (running,) = await driver.discover({"m": loaded.handle})
    return running.state


async def test_a_silent_engine_is_unhealthy_after_several_looks_over_the_limit(
    make: Make, tmp_path: Path
) -> None:
    clock = Skipping()
    driver = make(clock=clock, **QUICK)
    loaded = await driver.load(request(model(tmp_path)), progress=no_progress)
    os.kill(loaded.handle["pid"], signal.SIGSTOP)
    assert await state_after(driver, loaded, clock, 0) == "ready"
    assert await state_after(driver, loaded, clock, 60) == "ready", "one pause, perhaps of ours"
    clock.skipped += 1
    (running,) = await driver.discover({"m": loaded.handle})
    os.kill(loaded.handle["pid"], signal.SIGCONT)
    assert running.state == "unhealthy"
    assert "/health" in running.detail


@pytest.mark.parametrize("pause_s", [2, 6, 12])
async def test_a_pause_with_a_stream_in_flight_loses_nothing(
    make: Make, tmp_path: Path, pause_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "TIMEOUT_S", 0.1)  # five seconds a look otherwise
    clock = Skipping()
    driver = make(clock=clock)
    path = model(tmp_path, chunks=6, chunk_s=0.05)
    loaded = await driver.load(request(path), progress=no_progress)
    pid, events = loaded.handle["pid"], []
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        body = {"model": "m", "prompt": "a", "stream": True}
        url = f"{loaded.upstream.base_url}/v1/completions"
        async with client.stream("POST", url, json=body) as answer:
            async for line in answer.aiter_lines():
                events += [line] if line else []
                if len(events) == 2 and line:
                    os.kill(pid, signal.SIGSTOP)
                    for _ in range(pause_s):
                        assert await state_after(driver, loaded, clock, 1) == "ready"
                    os.kill(pid, signal.SIGCONT)
    assert events[-1] == "data: [DONE]" and len(events) == 7
    assert await state_after(driver, loaded, clock, 30) == "ready"
    assert len(starts(path)) == 1


def gpus(fake: FakeNvml, count: int) -> NvmlInventory:
    for number in range(count):
        fake.add(FakeGpu(uuid=f"GPU-{number}"))
    return NvmlInventory(node="n")


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
    held = {process.pid for process in inventory.snapshot()[0].processes or ()}
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


async def test_a_hung_load_on_the_cpu_delays_no_other(make: Make, tmp_path: Path) -> None:
    driver, path = make(), model(tmp_path, "hung", hang=True, ignore_term=True)
    hung = asyncio.create_task(driver.load(request(path), progress=no_progress))
    await until(lambda: bool(starts(path)))
    good = await driver.load(request(model(tmp_path, "good")), progress=no_progress)
    assert (await complete(good)).status_code == 200
    assert not hung.done()
    await driver.unload("hung", handle={}, grace_s=0)
    with pytest.raises(LoadFailed, match="unloaded while"):
        await hung
    assert [running.model for running in await driver.discover({})] == ["good"]


async def test_a_start_that_hangs_on_a_gpu_gives_its_turn_away(
    make: Make, tmp_path: Path, fake_nvml: FakeNvml
) -> None:
    (gpu,) = gpus(fake_nvml, 1).snapshot()
    clock = Skipping()
    driver, path = make(inventory=NvmlInventory(node="n"), clock=clock), model(tmp_path, hang=True)
    hung = asyncio.create_task(driver.load(request(path, devices=(gpu,)), progress=no_progress))
    await until(lambda: bool(starts(path)))
    waiting = asyncio.Event()
    second = asyncio.create_task(
        driver.load(
            request(model(tmp_path, "b"), devices=(gpu,)), progress=lambda *_: waiting.set()
        )
    )
    await waiting.wait()
    assert starts(tmp_path / "b") == []
    clock.skipped += 61
    await second
    assert not hung.done()
    hung.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hung


async def test_an_adopted_engine_with_an_older_configuration_is_named(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = await make().load(request(model(tmp_path)), progress=no_progress)
    same = make()
    await same.discover({"m": loaded.handle})
    assert (await same.status()).detail == ""
    assert not caplog.records
    changed = make(default_settings={"dtype": "float16"}, environment={"SECRET": "hunter2"})
    await changed.discover({"m": loaded.handle})
    detail = "vllm.default_settings, vllm.environment changed since m started"
    assert detail in (await changed.status()).detail
    assert "m was started before vllm.default_settings, vllm.environment changed" in caplog.text
    record = (tmp_path / "vllm" / "m.json").read_text()
    assert "hunter2" not in record and "float16" not in record


async def test_kernels_are_kept_in_the_state_directory(make: Make, tmp_path: Path) -> None:
    path = model(tmp_path)
    await make().load(request(path), progress=no_progress)
    environment: dict[str, str] = starts(path)[0]["env"]  # type: ignore[assignment]
    assert environment["VLLM_CACHE_ROOT"].startswith(str(tmp_path / "vllm" / "caches"))
    assert environment["PATH"].startswith(f"{tmp_path}:"), "its own tools are found"
