"""What a host sees of its engines, over small engine processes."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from typing import Any

import pytest

from modelium.errors import ModeliumError
from modelium.ports import EngineStats, Loaded, Running
from runtimes.engines.host import EngineHost
from runtimes.process import engine_log, proc
from runtimes.process.patience import Patience
from tests.runtimes.conditions import until
from tests.runtimes.engines.small import GPU, Small, gone, small
from tests.runtimes.requests import CPU, no_progress

pytestmark = pytest.mark.slow

__all__ = ["small"]


async def load(small: Small, host: EngineHost, name: str = "m", **told: Any) -> Loaded:
    return await host.load(small.request(small.model(name, **told)), no_progress)


def ready(name: str, engine: Loaded, **changes: Any) -> Running:
    found = Running(
        model=name,
        state="ready",
        upstream=engine.upstream,
        handle=engine.handle,
        pids=(engine.handle["pid"],),
        detail="",
        own=True,
    )
    return replace(found, **changes)


async def test_all_engines_are_seen_by_name_with_their_processes(small: Small) -> None:
    earlier, host = small.host(), small.host()
    second, first = await load(small, earlier, "b"), await load(small, host, "a")
    starting = asyncio.create_task(load(small, host, "c", hangs=True))
    await until(lambda: small.ports("c"))
    found = await host.discover({"a": first.handle, "never-seen": {}})
    assert found[:2] == [ready("a", first), ready("b", second)]
    (loading,) = found[2:]
    assert loading == Running(model="c", state="loading", pids=loading.pids, own=True)
    (pid,) = loading.pids
    assert proc.entry(pid) is not None
    starting.cancel()
    await asyncio.wait({starting})


async def test_a_load_that_waits_for_its_device_has_no_process_yet(small: Small) -> None:
    host, path = small.host(), small.model()
    async with small.locks.hold(["n/GPU-a"]):
        task = asyncio.create_task(host.load(small.request(path, GPU), small.note))
        await until(lambda: small.progress)
        assert await host.discover({"m": {}}) == [
            Running(model="m", state="loading", pids=(), own=True)
        ]
        await host.unload("m", {}, 0)
    with pytest.raises(ModeliumError):
        await task


async def test_an_engine_of_an_earlier_run_is_loading_until_it_answers(small: Small) -> None:
    engine = await load(small, small.host())
    host = small.host()
    small.tell(health=(503, ""))
    detail = "/health answers with status 503"
    assert await host.discover({"m": engine.handle}) == [
        ready("m", engine, state="loading", detail=detail)
    ]
    assert await host.stats() == {}
    small.tell(health=(200, ""))
    assert await host.discover({}) == [ready("m", engine)]
    assert list(await host.stats()) == ["m"]
    small.tell(health=(503, ""))
    assert await host.discover({}) == [ready("m", engine, detail=detail)], "one look is no loss"


async def test_a_lost_record_is_made_up_for_by_the_handle_of_a_live_engine(small: Small) -> None:
    first = small.host()
    engine = await load(small, first)
    (small.state / "m.json").unlink()
    assert await first.discover({}) == [ready("m", engine)], "it knows it by itself"
    host = small.host()
    assert await host.discover({}) == []
    assert await host.discover({"m": engine.handle}) == [ready("m", engine)]
    os.kill(engine.handle["pid"], signal.SIGKILL)
    await until(lambda: gone(engine.handle["pid"]))
    assert await small.host().discover({"m": engine.handle}) == []


async def test_the_record_counts_before_the_handle(small: Small) -> None:
    engine = await load(small, small.host())
    old = engine.handle | {"pid": os.getpid(), "started": 1, "port": 1, "token": "old"}
    found = small.host().find("m", old)
    assert found is not None and found.handle == engine.handle


@pytest.mark.parametrize("sleeps", [True, False])
async def test_an_engine_sleeps_where_it_can_and_says_so(small: Small, *, sleeps: bool) -> None:
    host = small.host(sleeps=sleeps)
    engine = await load(small, host)
    small.tell(is_sleeping=(200, {"is_sleeping": True}))
    state = "sleeping" if sleeps else "ready"
    assert await host.discover({}) == [ready("m", engine, state=state)]
    small.tell(health=(503, ""))
    detail = "/health answers with status 503"
    assert await host.discover({}) == [ready("m", engine, detail=detail)]
    small.tell(health=(200, ""))
    none = small.host(sleep=None)
    assert await none.discover({}) == [ready("m", engine)]


@pytest.mark.parametrize("started", ["by this host", "before", "and never seen"])
async def test_an_engine_that_exited_is_told_once_to_who_knows_it(
    small: Small, started: str
) -> None:
    own = started == "by this host"
    first = small.host()
    engines = {name: await load(small, first, name) for name in ("a", "b")}
    host = first if own else small.host()
    if started != "and never seen":
        await host.discover({})
    for engine in engines.values():
        os.kill(engine.handle["pid"], signal.SIGKILL)
        await until(lambda pid=engine.handle["pid"]: gone(pid))  # type: ignore[misc]
    status = f" with status {-signal.SIGKILL}" if own else ""
    found = await host.discover({"a": engines["a"].handle})
    assert found == [
        ready("a", engines["a"], state="unhealthy", pids=(), detail=f"its engine exited{status}")
    ]
    assert list(small.state.glob("*.json")) == []
    assert host._ports._reserved == set()
    assert await host.discover({"a": engines["a"].handle}) == []
    assert await host.stats() == {}


async def test_an_engine_that_exits_while_it_is_looked_at_is_no_silent_one(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = small.host(sleeps=True)
    engine = await load(small, host)
    pid = engine.handle["pid"]

    async def is_sleeping(_: object) -> bool:
        os.kill(pid, signal.SIGKILL)
        await until(lambda: gone(pid))
        return False

    monkeypatch.setattr(small.client, "is_sleeping", is_sleeping)
    (found,) = await host.discover({"m": engine.handle})
    assert (found.state, found.detail) == ("unhealthy", "its engine exited with status -9")


async def test_what_an_unload_or_a_load_is_at_is_not_cleared_by_a_look(small: Small) -> None:
    host = small.host()
    engine = await load(small, host)
    os.kill(engine.handle["pid"], signal.SIGKILL)
    await until(lambda: gone(engine.handle["pid"]))
    async with host._model_locks["m"]:
        assert await host.discover({"m": engine.handle}) == []
    assert (small.state / "m.json").exists()


@pytest.mark.parametrize(
    ("counters", "limit_s", "lost"),
    [({}, 30, True), ({"running": 1, "waiting": 1}, 120, False), ("computes", 120, False)],
)
async def test_a_silent_engine_is_lost_after_the_limit_and_busy_ones_later(
    small: Small,
    monkeypatch: pytest.MonkeyPatch,
    counters: dict[str, int] | str,
    limit_s: float,
    *,
    lost: bool,
) -> None:
    if counters == "computes":
        monkeypatch.setattr(proc, "cpu_s", lambda _: small.clock.monotonic() / 2)
        counters = {}
    host = small.host(patience=Patience(limit_s=30.0))
    engine = await load(small, host)
    small.tell(metrics=(200, counters))
    await host.stats()
    small.tell(health=(503, ""))

    async def state(after_s: float) -> str:
        small.clock.skipped += after_s
        (running,) = await host.discover({})
        return running.state

    assert [await state(after_s) for after_s in (0, 20, 11)] == [
        *("ready", "ready", "unhealthy" if lost else "ready"),
    ]
    assert await state(limit_s) == "unhealthy"
    small.tell(health=(200, ""))
    assert await state(0) == "ready"
    small.tell(health=(503, ""))
    assert await state(0) == "ready"
    await host.unload("m", {}, 0)
    assert gone(engine.handle["pid"])
    small.tell(health=(200, ""))
    await host.load(small.request(small.folder / "m"), no_progress)
    small.tell(health=(503, ""))
    assert [await state(after_s) for after_s in (100, 20)] == ["ready", "ready"], "a new one"


async def test_the_log_of_a_running_engine_is_kept_small(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = small.host()
    await load(small, host)
    monkeypatch.setattr(engine_log, "MAX_BYTES", 10)
    with (small.state / "m.log").open("a") as log:
        log.write("x" * 20)
    await host.discover({})
    assert (small.state / "m.log.1").read_text() == "x" * 10


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((200, ""), ""),
        ((404, "no"), ""),
        ((503, "busy"), ""),
        ((500, "y" * 300), f"/probe answers 500: {'y' * 200}"),
        ((0, ""), ""),
    ],
)
async def test_a_check_repeats_the_first_request(
    small: Small, answer: tuple[int, str], outcome: str
) -> None:
    host = small.host()
    engine = await load(small, host)
    small.tell(probe=answer)
    before = len(small.lines("seen"))
    assert await host.check("m", engine.handle) == outcome
    assert small.lines("seen")[before:] == ["POST /probe"]


async def test_what_has_no_probe_is_not_checked(small: Small) -> None:
    small.recipe.probed = False
    host = small.host()
    engine = await load(small, host)
    before = small.lines("seen")
    assert await host.check("m", engine.handle) == ""
    assert await host.check("never-seen", {}) == ""
    assert small.lines("seen") == before


async def test_counters_tell_when_a_model_was_used_last(small: Small) -> None:
    host = small.host()
    await load(small, host)
    small.clock.time = iter(range(100, 200)).__next__  # type: ignore[method-assign]

    async def last(**counters: int) -> float | None:
        small.tell(metrics=(200, counters))
        return (await host.stats())["m"].last_inference_at

    assert await last() is None
    assert await last(completed=1) == 100
    assert await last(completed=1) == 100
    assert await last(completed=1, generated_tokens=5) == 101
    assert await last(completed=1, generated_tokens=5, prompt_tokens=2) == 102
    assert await last(completed=1, generated_tokens=5, prompt_tokens=2, failed=9) == 102
    assert await last(completed=1, generated_tokens=5, prompt_tokens=2, running=1) == 103
    assert await last(completed=2, generated_tokens=0) == 104
    await host.unload("m", {}, 0)
    await host.load(small.request(small.folder / "m"), no_progress)
    assert await last(completed=2) == 105, "a new engine counts anew"


async def test_resident_memory_is_that_of_engines_on_a_cpu_alone(small: Small) -> None:
    host = small.host()
    engine = await load(small, host, "a")
    await host.load(small.request(small.model("b"), CPU, GPU), no_progress)
    await load(small, host, "c")
    small.tell("a", metrics=(200, {"completed": 3}))
    small.tell("b", metrics=(200, {"completed": 4}))
    small.tell("c", metrics=(500, ""))
    found = await host.stats()
    resident = found["a"].resident_bytes
    assert resident is not None
    assert resident == pytest.approx(proc.resident_bytes([engine.handle["pid"]]), rel=0.2)
    assert found["a"] == EngineStats(
        completed=3, resident_bytes=resident, last_inference_at=found["a"].last_inference_at
    )
    assert found["b"].resident_bytes is None
    assert list(found) == ["a", "b"], "what does not answer is left out"


async def test_engines_with_an_older_configuration_are_named(
    small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    old = small.host(configuration={"x": "1", "y": "1", "z": "1"})
    for name in ("b", "a"):
        await load(small, old, name)
    assert old.outdated() == {}
    same = small.host(configuration={"x": "1", "y": "1", "z": "1"})
    await same.discover({})
    assert same.outdated() == {} and caplog.messages == []
    new = small.host(configuration={"x": "2", "y": "1", "z": "2"})
    assert new.outdated() == {}, "it has seen none yet"
    for _ in range(2):
        await new.discover({})
    assert new.outdated() == {"a": ["x", "z"], "b": ["x", "z"]}
    assert list(new.outdated()) == ["a", "b"]
    assert sorted(caplog.messages) == [
        f"{name} was started before vllm.x, vllm.z changed: unload and load it to apply that"
        for name in ("a", "b")
    ]
