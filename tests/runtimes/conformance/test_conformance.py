"""Every driver × every case, against the real runtime.

Each case loads the model that it needs, which is free if it is loaded already. The cases marked
`conformance` start further engines and run in `make conformance` only.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import pytest

from modelium.clock import SystemClock
from modelium.errors import DeadlineExceeded, LoadFailed, Unavailable
from modelium.ports import EngineStats, Loaded, Running, Runtime
from modelium.traffic import TrafficBook
from modelium.traffic.direct_requests import LAG_S
from runtimes.process import proc
from tests.runtimes.conditions import until
from tests.runtimes.conformance.bench import Bench
from tests.runtimes.conformance.conftest import listening, remains
from tests.runtimes.requests import no_progress

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]

NOTICE_S = 10.0
"""One monitor interval."""
SILENT_UNLOAD_S = 20.0
RELOAD_S = 600.0
"""As long as a load may take; vLLM's was seen to take 140 s on a loaded machine."""


async def loaded(bench: Bench, driver: Runtime, name: str = "one") -> Loaded:
    bench.live[name] = await driver.load(bench.request(name), progress=no_progress)
    return bench.live[name]


async def states(driver: Runtime, **handles: Loaded) -> dict[str, str]:
    found = await driver.discover({name: one.handle for name, one in handles.items()})
    return {running.model: running.state for running in found}


async def test_load(bench: Bench, driver: Runtime, figures: dict[str, str]) -> None:
    """load, with progress, until it answers"""
    phases: list[str] = []
    begun = time.monotonic()
    one = await driver.load(
        bench.request("one"), progress=lambda phase, share: phases.append(phase)
    )
    figures[f"{bench.name} cold start"] = f"{time.monotonic() - begun:.1f} s"
    bench.live["one"] = one
    assert phases
    await bench.ask(one)
    assert (await states(driver, one=one))["one"] == "ready"
    assert (await driver.status()).healthy
    assert listening(bench.state), "what the suite checks at its end has to be visible now"


async def test_double_load(bench: Bench, driver: Runtime) -> None:
    """a second and a third load join the first"""
    first = await loaded(bench, driver)
    again = await asyncio.gather(
        *(driver.load(bench.request("one"), progress=no_progress) for _ in range(2))
    )
    assert [first, first] == list(again)


async def test_serve(bench: Bench, driver: Runtime) -> None:
    """answers several requests at once"""
    one = await loaded(bench, driver)
    await asyncio.gather(*(bench.ask(one) for _ in range(4)))


async def test_stats(bench: Bench, driver: Runtime) -> None:
    """its counters move with requests"""
    one = await loaded(bench, driver)
    before = (await driver.stats())["one"]
    begun = time.time()
    await bench.ask(one)

    async def counted() -> EngineStats | None:
        after = (await driver.stats())["one"]
        if bench.counts_requests:
            return after if after.completed > before.completed else None
        return after if after.generated_tokens > before.generated_tokens else None

    after = await until(counted)
    assert after is not None
    assert after.last_inference_at is None or after.last_inference_at >= begun - 1
    assert after.latency_sum_s >= before.latency_sum_s
    assert after.resident_bytes is None or after.resident_bytes > 10 * 2**20


async def test_direct(bench: Bench, driver: Runtime) -> None:
    """requests past the gateway count as traffic, the gateway's own not twice"""
    one = await loaded(bench, driver)
    book = TrafficBook(clock=SystemClock())

    async def direct() -> int:
        book.on_engine_stats("one", loaded_at=1.0, stats=(await driver.stats())["one"])
        return book.snapshot()["one"].direct

    await asyncio.sleep(LAG_S)  # what earlier cases asked is in the counters by then
    assert await direct() == 0
    for _ in range(3):
        await bench.ask(one)
    wanted = 3 if bench.counts_requests else 1

    async def counted() -> int:
        found = await direct()
        return found if found >= wanted else 0

    found = await until(counted)
    for _ in range(3):
        book.on_started("one")
        await bench.ask(one)
        book.on_finished("one", latency_s=0.1, failed=False)
    for _ in range(6):
        assert await direct() == found
        await asyncio.sleep(2)


async def test_restart(bench: Bench, driver: Runtime) -> None:
    """a restarted Modelium adopts it, and it still serves"""
    one = await loaded(bench, driver)
    async with bench.driver() as after:
        assert (await states(after, one=one))["one"] == "ready"
        assert "one" in await states(after), "also when the store knows nothing of it"
        await bench.ask(one)
        assert await after.load(bench.request("one"), progress=no_progress) == one
        assert "one" in await after.stats()
    assert (await states(driver, one=one))["one"] == "ready"


async def test_broken(bench: Bench, driver: Runtime) -> None:
    """a broken model is refused with a kind, and nothing of it stays"""
    broken = bench.broken()
    with pytest.raises(LoadFailed) as failure:
        await driver.load(broken, progress=no_progress)
    assert failure.value.kind in bench.broken_kinds, failure.value
    assert broken.model in str(failure.value)
    assert broken.model not in await states(driver)


@pytest.mark.conformance
async def test_load_while_another_loads(bench: Bench, driver: Runtime) -> None:
    """two models that load at once both serve, and can be unloaded, one of them silent"""
    two, three = await asyncio.gather(loaded(bench, driver, "two"), loaded(bench, driver, "three"))
    await asyncio.gather(bench.ask(two), bench.ask(three))
    await unload_paused(bench, driver, "two", two)
    await driver.unload("three", handle=three.handle, grace_s=10)
    assert not {"two", "three"} & set(await states(driver))


async def unload_paused(bench: Bench, driver: Runtime, name: str, one: Loaded) -> None:
    """Unload a model whose processes are paused; where that fails, do it again afterwards."""
    (running,) = [r for r in await driver.discover({name: one.handle}) if r.model == name]
    bench.send(running, signal.SIGSTOP)
    try:
        # A server that is paused as a whole cannot unload one model.
        with contextlib.suppress(Unavailable, DeadlineExceeded, TimeoutError):
            async with asyncio.timeout(SILENT_UNLOAD_S):
                await driver.unload(name, handle=one.handle, grace_s=1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            bench.send(running, signal.SIGCONT)
    await driver.unload(name, handle=one.handle, grace_s=10)


@pytest.mark.conformance
async def test_cancel(bench: Bench, driver: Runtime) -> None:
    """a cancelled load leaves nothing behind"""
    under_way = asyncio.Event()

    def progress(phase: str, share: float | None) -> None:
        if phase != "starting":
            under_way.set()

    load = asyncio.create_task(driver.load(bench.request("cancelled"), progress=progress))
    await under_way.wait()
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert "cancelled" not in await states(driver)
    assert not [row for row in remains(bench.state) if "cancelled" in row]


@pytest.mark.conformance
@pytest.mark.parametrize("asked", [False, True], ids=["idle", "asked"])
@pytest.mark.parametrize("pause_s", [2, 6, 12])
async def test_pause(bench: Bench, driver: Runtime, pause_s: int, asked: bool) -> None:
    """a pause of some seconds loses neither the model nor a request"""
    one = await loaded(bench, driver)
    (running,) = [r for r in await driver.discover({"one": one.handle}) if r.model == "one"]
    bench.send(running, signal.SIGSTOP)
    answer = asyncio.create_task(bench.ask(one) if asked else asyncio.sleep(0))
    try:
        over = time.monotonic() + pause_s
        while time.monotonic() < over:
            status = await driver.status()
            if status.healthy:  # else nothing is known of its models
                with contextlib.suppress(Unavailable, DeadlineExceeded):
                    assert (await states(driver, one=one)).get("one") == "ready"
            await asyncio.sleep(0.5)
    finally:
        bench.send(running, signal.SIGCONT)
    await answer
    await bench.ask(one)
    (after,) = [r for r in await driver.discover({"one": one.handle}) if r.model == "one"]
    assert (after.state, after.pids) == ("ready", running.pids)


@pytest.mark.conformance
async def test_hung_load(bench: Bench, driver: Runtime) -> None:
    """a load that hangs delays no other, and an unload ends it"""
    if bench.name == "triton":
        pytest.skip("its models have no processes of their own that could be paused")
    hung = asyncio.create_task(driver.load(bench.request("hung"), progress=no_progress))

    async def started() -> Running | None:
        found = {running.model: running for running in await driver.discover({})}
        return found["hung"] if "hung" in found and found["hung"].pids else None

    running = await until(started)
    assert running is not None
    bench.send(running, signal.SIGSTOP)
    two = await loaded(bench, driver, "two")
    await bench.ask(two)
    assert not hung.done()
    await driver.unload("hung", handle={}, grace_s=0)
    with pytest.raises(LoadFailed):
        await hung
    assert "hung" not in await states(driver)
    assert not [row for row in remains(bench.state) if "hung" in row]
    await driver.unload("two", handle=two.handle, grace_s=10)


@pytest.mark.conformance
async def test_kill(bench: Bench, driver: Runtime) -> None:
    """killed under us, it is noticed within an interval and can be loaded again"""
    one = await loaded(bench, driver)
    (running,) = [r for r in await driver.discover({"one": one.handle}) if r.model == "one"]
    bench.send(running, signal.SIGKILL)

    async def noticed() -> bool:
        return (await states(driver, one=one)).get("one") != "ready"

    async def reloaded() -> Loaded | None:
        try:
            return await driver.load(bench.request("one"), progress=no_progress)
        except Unavailable:  # a server that was just started is not started again at once
            return None

    await until(noticed, deadline_s=NOTICE_S)
    again = await until(reloaded, deadline_s=RELOAD_S)
    assert again is not None
    await bench.ask(again)


async def test_unload(bench: Bench, driver: Runtime, figures: dict[str, str]) -> None:
    """unloading lets requests in flight finish, and gives its memory back"""
    one = await loaded(bench, driver)
    (running,) = [r for r in await driver.discover({"one": one.handle}) if r.model == "one"]
    requests = [asyncio.create_task(bench.ask(one)) for _ in range(2)]
    await asyncio.sleep(0.3)
    begun = time.monotonic()
    await driver.unload("one", handle=one.handle, grace_s=60)
    figures[f"{bench.name} unload"] = f"{time.monotonic() - begun:.1f} s"
    await asyncio.gather(*requests)
    assert "one" not in await states(driver, one=one)
    assert "one" not in await driver.stats()
    for pid in running.pids:
        entry = proc.entry(pid)
        assert entry is None or not entry.alive


async def test_unload_twice(bench: Bench, driver: Runtime) -> None:
    """unloading what is not loaded is fine"""
    await driver.unload("one", handle={}, grace_s=1)
    await driver.unload("one", handle={}, grace_s=1)
    await driver.unload("never-seen", handle={}, grace_s=1)
