"""Loads and unloads, over small engine processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelium.errors import FailureKind, LoadFailed, Unavailable
from modelium.models import LoadSettings, Upstream
from modelium.models.runtimes import VLLM
from modelium.ports import Loaded
from runtimes.engines import host as host_module
from runtimes.engines.host import EngineHost
from runtimes.process import gpu_release, proc
from runtimes.process.compile_caches import CompileCaches
from tests.runtimes.conditions import until
from tests.runtimes.engines.small import GPU, Small, gone, small
from tests.runtimes.requests import CPU, no_progress

pytestmark = pytest.mark.slow

__all__ = ["small"]


async def test_a_loaded_model_is_told_and_recorded_with_all_that_finds_it_again(
    small: Small,
) -> None:
    host = small.host(configuration={"field": "digest"})
    region = f"/dev/shm/modelium-small-{os.getpid()}"
    path = small.model(region=region)
    request = small.request(path, version=3, settings=LoadSettings(max_num_seqs=4))
    loaded = await host.load(request, small.note)
    handle = loaded.handle
    (port,) = small.ports()
    entry = proc.entry(handle["pid"])
    assert entry is not None
    assert len(handle["api_key"]) == 32
    assert handle == {
        "runtime": "vllm",
        "version": 3,
        "host": "127.0.0.1",
        "port": port,
        "api_key": proc.variables(entry.pid, ["KEY"])["KEY"],
        "devices": ["n/cpu"],
        "log": str(small.state / "m.log"),
        "settings": {"dtype": "completed", "max_num_seqs": 4},
        "reduced": False,
        "configuration": {"field": "digest"},
        "probe": ["/probe", {"prompt": "1"}],
        "pid": entry.pid,
        "started": entry.started,
        "boot": proc.boot_id(),
        "token": handle["token"],
    }
    assert json.loads((small.state / "m.json").read_text()) == handle
    upstream = Upstream(
        host="127.0.0.1",
        port=port,
        served_name="m",
        apis=VLLM.apis,
        api_key=handle["api_key"],
        user=os.getuid(),
    )
    assert loaded == Loaded(upstream=upstream, handle=handle)
    assert small.progress == ["starting", "sending a first request"]
    assert small.lines("seen")[-1] == "POST /probe"
    os.kill(entry.pid, signal.SIGKILL)
    await until(lambda: gone(entry.pid))
    await host.discover({})
    assert not os.path.exists(region)  # noqa: ASYNC240


async def test_a_load_of_what_is_loaded_starts_nothing(small: Small) -> None:
    path = small.model()
    before = await small.host().load(small.request(path), no_progress)
    host = small.host()
    assert await host.load(small.request(path), small.note) == before
    assert len(small.ports()) == 1
    assert list(await host.stats()) == ["m"], "it is adopted"
    with pytest.raises(LoadFailed) as failure:
        await host.load(small.request(path, version=2), no_progress)
    assert str(failure.value) == "version 1 of m is loaded: unload it first"
    assert failure.value.kind == FailureKind.BAD_SETTINGS
    assert small.progress == []
    assert not gone(before.handle["pid"])


Signals = list[tuple[int, bool]]
"""Number, and whether the GPU was locked."""


@pytest.fixture
def signals(small: Small, monkeypatch: pytest.MonkeyPatch) -> Signals:
    """The signals that are sent from now on."""
    found: Signals = []
    kill = os.kill

    def noted(pid: int, number: int) -> None:
        found.append((number, small.locks.locked("n/GPU-a")))
        kill(pid, number)

    monkeypatch.setattr(os, "kill", noted)
    return found


@pytest.mark.parametrize("fault", ["killed", "sick"])
async def test_an_engine_that_is_dead_or_half_started_is_replaced_at_once(
    small: Small, signals: Signals, fault: str
) -> None:
    path, host = small.model(), small.host()
    first = await host.load(small.request(path), no_progress)
    if fault == "killed":
        os.kill(first.handle["pid"], signal.SIGKILL)
        await until(lambda: gone(first.handle["pid"]))
    else:
        host = small.host()  # as after a restart
    small.tell(health=(503, ""))
    load = asyncio.create_task(host.load(small.request(path), no_progress))
    await until(lambda: len(small.ports()) == 2)
    small.tell(health=(200, ""))
    second = await load
    assert gone(first.handle["pid"])
    assert second.handle["pid"] != first.handle["pid"]
    assert {number for number, _ in signals} == {signal.SIGKILL}
    assert host._ports._reserved == {second.upstream.port}


async def test_ports_are_the_lowest_free_ones_and_are_given_back(small: Small) -> None:
    probe = small.host()
    base = probe._ports.reserve()
    host = small.host(base_port=base)
    first = await host.load(small.request(small.model("a")), no_progress)
    second = await host.load(small.request(small.model("b")), no_progress)
    assert base <= first.upstream.port < second.upstream.port
    await host.unload("a", {}, 0)
    third = await host.load(small.request(small.model("c")), no_progress)
    assert third.upstream.port == first.upstream.port
    small.recipe.refuses = LoadFailed("no", kind=FailureKind.BAD_SETTINGS)
    with pytest.raises(LoadFailed, match="no"):
        await host.load(small.request(small.model("d")), no_progress)
    small.recipe.refuses = None
    last = await host.load(small.request(small.folder / "d"), no_progress)
    assert last.upstream.port > second.upstream.port
    assert host._ports._reserved == {e.upstream.port for e in (second, third, last)}
    adopting = small.host(base_port=base)
    await adopting.discover({})
    assert adopting._ports._reserved == host._ports._reserved


@pytest.mark.parametrize(
    ("exits", "kind", "phases"),
    [
        (["fails port"] * 2, None, ["starting again on another port"] * 2),
        (["fails port"] * 3, FailureKind.PORT, ["starting again on another port"] * 2),
        (["fails out-of-memory"], None, ["starting again with less memory"]),
        (
            ["fails out-of-memory"] * 2,
            FailureKind.OUT_OF_MEMORY,
            ["starting again with less memory"],
        ),
        (
            ["fails port", "fails out-of-memory", "fails port"],
            None,
            [
                *("starting again on another port", "starting again with less memory"),
                "starting again on another port",
            ],
        ),
        (["fails bad-files"], FailureKind.BAD_FILES, []),
    ],
)
async def test_failures_that_another_port_or_less_memory_may_mend_are_tried_again(
    small: Small, exits: list[str], kind: FailureKind | None, phases: list[str]
) -> None:
    host, path = small.host(), small.model(exits=exits)
    reduced = "fails out-of-memory" in exits
    if kind is None:
        loaded = await host.load(small.request(path), small.note)
        expected = LoadSettings(dtype="completed", max_num_seqs=1) if reduced else None
        assert loaded.settings == expected
        assert loaded.handle["reduced"] is reduced
        assert loaded.handle["settings"] == (
            {"dtype": "completed"} | ({"max_num_seqs": 1} if reduced else {})
        )
        await host.unload("m", {}, 0)
    else:
        with pytest.raises(LoadFailed) as failure:
            await host.load(small.request(path), small.note)
        assert failure.value.kind == kind
    assert len(small.ports()) == 1 + len(phases)
    assert [phase for phase in small.progress if "again" in phase] == phases
    assert host._ports._reserved == set()
    assert list(small.state.glob("*.json")) == []


async def test_a_model_that_cannot_be_made_smaller_is_not_tried_again(small: Small) -> None:
    small.recipe.reduces = False
    path = small.model(exits=["fails out-of-memory"])
    with pytest.raises(LoadFailed) as failure:
        await small.host().load(small.request(path), small.note)
    assert failure.value.kind == FailureKind.OUT_OF_MEMORY
    assert len(small.ports()) == 1


async def test_a_start_that_fails_is_over_when_its_memory_is_back(
    small: Small, signals: Signals
) -> None:
    host, path = small.host(), small.model(hangs=True)
    load = asyncio.create_task(host.load(small.request(path, GPU), no_progress))
    await until(small.ports)
    assert small.locks.locked("n/GPU-a")
    (running,) = await host.discover({})
    assert small.devices.looks == 0
    small.devices.held = list(running.pids)
    load.cancel()
    await until(lambda: small.devices.looks > 2)
    assert gone(running.pids[0])
    assert small.locks.locked("n/GPU-a") and not load.done()
    small.devices.held = []
    with pytest.raises(asyncio.CancelledError):
        await load
    assert not small.locks.locked("n/GPU-a")
    assert {number for number, _ in signals} == {signal.SIGKILL}, "it has no grace"


async def test_a_load_waits_for_its_device_and_says_so(small: Small) -> None:
    host, path = small.host(), small.model()
    async with small.locks.hold(["n/GPU-a"]):
        load = asyncio.create_task(host.load(small.request(path, CPU, GPU), small.note))
        await until(lambda: small.progress)
        assert small.progress == ["waiting for the device"]
        assert small.ports() == []
    loaded = await load
    assert small.progress == [
        *("waiting for the device", "starting", "sending a first request"),
    ]
    assert loaded.handle["devices"] == ["n/cpu", "n/GPU-a"]


async def test_kernels_are_kept_by_the_first_device(small: Small, tmp_path: Path) -> None:
    caches = CompileCaches(root=tmp_path, build="b")
    loaded = await small.host(caches=caches).load(
        small.request(small.model(), GPU, CPU), no_progress
    )
    folders = caches.folders(GPU)
    assert proc.variables(loaded.handle["pid"], folders) == folders


async def test_an_engine_that_runs_code_of_its_model_has_caches_of_its_own(
    small: Small, tmp_path: Path
) -> None:
    caches = CompileCaches(root=tmp_path, build="b")
    approved = replace(small.request(small.model(), GPU), allow_remote_code=True)
    loaded = await small.host(caches=caches).load(approved, no_progress)
    folders = caches.folders(GPU, own="m")
    assert proc.variables(loaded.handle["pid"], folders) == folders


async def loaded(small: Small, host: EngineHost, *devices: Any, **told: Any) -> Loaded:
    found = await host.load(small.request(small.model(**told), *devices), no_progress)
    (small.folder / "m/seen").unlink()
    return found


async def test_an_unload_waits_for_requests_ends_the_engine_and_waits_for_its_memory(
    small: Small, signals: Signals
) -> None:
    host = small.host()
    engine = await loaded(small, host, GPU)
    pid = engine.handle["pid"]
    small.devices.held = [pid]
    small.tell(metrics=(200, {"running": 1}))
    unload = asyncio.create_task(host.unload("m", {}, 600))
    await until(lambda: len(small.lines("seen")) > 2)
    assert set(small.lines("seen")) == {"GET /metrics"} and signals == []
    small.tell(metrics=(200, {}))
    await until(lambda: small.devices.looks > 2)
    assert signals == [(signal.SIGTERM, True)]
    assert gone(pid) and not unload.done()
    small.devices.held = []
    await unload
    assert not small.locks.locked("n/GPU-a")
    assert await host.discover({"m": engine.handle}) == []
    assert await host.stats() == {}
    assert host._ports._reserved == set()


async def test_an_unload_on_a_cpu_waits_for_no_memory(small: Small) -> None:
    host = small.host()
    engine = await loaded(small, host)
    small.devices.held = [engine.handle["pid"]]
    await host.unload("m", {}, 600)
    assert small.devices.looks == 0


async def test_memory_that_an_unload_does_not_free_is_told(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_release, "DEADLINE_S", 0.1)
    host = small.host()
    engine = await loaded(small, host, GPU, CPU)
    small.devices.held = [engine.handle["pid"]]
    with pytest.raises(Unavailable) as failure:
        await host.unload("m", {}, 600)
    assert str(failure.value) == (
        "m has ended, but its memory on n/GPU-a was not freed: check with nvidia-smi which other "
        "process holds it"
    )
    assert gone(engine.handle["pid"])
    assert await host.discover({"m": engine.handle}) == []
    await host.unload("m", engine.handle, 600)


async def test_a_crashed_engine_is_cleared_at_once(small: Small) -> None:
    host = small.host()
    engine = await loaded(small, host, GPU)
    small.devices.held = [engine.handle["pid"]]
    os.kill(engine.handle["pid"], signal.SIGKILL)
    await until(lambda: gone(engine.handle["pid"]))
    with socket.create_server(("127.0.0.1", engine.upstream.port)) as other:
        other.setblocking(False)
        await host.unload("m", {}, 600)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert small.devices.looks == 0
    assert list(small.state.glob("*.json")) == []


async def test_an_engine_that_sleeps_has_no_requests_to_wait_for(small: Small) -> None:
    host = small.host(sleeps=True)
    engine = await loaded(small, host)
    small.tell(is_sleeping=(200, {"is_sleeping": True}), metrics=(200, {"running": 1}))
    await host.unload("m", {}, 600)
    assert small.lines("seen") == ["GET /is_sleeping"]
    assert gone(engine.handle["pid"])


@pytest.mark.parametrize(
    ("grace_s", "numbers"), [(600, [signal.SIGTERM, signal.SIGKILL]), (0, [signal.SIGKILL])]
)
async def test_an_engine_that_ignores_sigterm_has_its_grace_but_some_seconds_at_most(
    small: Small,
    monkeypatch: pytest.MonkeyPatch,
    signals: Signals,
    grace_s: float,
    numbers: list[int],
) -> None:
    monkeypatch.setattr(host_module, "TERM_GRACE_S", 0.05)
    host = small.host()
    await loaded(small, host, deaf=True)
    await host.unload("m", {}, grace_s)
    assert list(dict.fromkeys(number for number, _ in signals)) == numbers


async def test_the_end_unloads_all_models_and_cancels_what_is_loading(small: Small) -> None:
    earlier, host = small.host(), small.host()
    first = await earlier.load(small.request(small.model("a")), no_progress)
    second = await host.load(small.request(small.model("b")), no_progress)
    load = asyncio.create_task(host.load(small.request(small.model("c", hangs=True)), no_progress))
    await until(lambda: small.ports("c"))
    async with small.locks.hold(["n/GPU-a"]):
        waiting = host.load(small.request(small.model("d"), GPU), small.note)
        other = asyncio.create_task(waiting)
        await until(lambda: small.progress)
        await host.end(600)
    for name, task in (("c", load), ("d", other)):
        with pytest.raises(LoadFailed, match=f"{name} was unloaded while it was loading"):
            await task
    assert gone(first.handle["pid"]) and gone(second.handle["pid"])
    assert list(small.state.glob("*.json")) == []


async def test_the_end_tells_what_did_not_end_after_it_has_ended_the_others(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_release, "DEADLINE_S", 0.1)
    host = small.host()
    first = await host.load(small.request(small.model("a"), GPU), no_progress)
    second = await host.load(small.request(small.model("b"), GPU), no_progress)
    small.devices.held = [first.handle["pid"]]
    with pytest.raises(Unavailable, match="a has ended"):
        await host.end(600)
    assert gone(second.handle["pid"])


async def test_closing_ends_loads_and_leaves_engines(small: Small) -> None:
    host = small.host()
    engine = await host.load(small.request(small.model("a")), no_progress)
    load = asyncio.create_task(host.load(small.request(small.model("c", hangs=True)), no_progress))
    await until(lambda: small.ports("c"))
    await host.close()
    with pytest.raises(LoadFailed):
        await load
    assert not gone(engine.handle["pid"])
    assert [running.model for running in await small.host().discover({})] == ["a"]
