"""Sleep and wake: against an API that says what it is told, and over the fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from modelium.errors import Unavailable
from modelium.models import GIB, Device, RuntimeName
from runtimes.engines.client import EngineClient
from runtimes.engines.instance import EngineInstance
from runtimes.engines.sleep import EngineSleep
from runtimes.loading.device_locks import DeviceLocks
from runtimes.process.supervisor import EngineProcess
from tests.runtimes.clock import FakeClock
from tests.runtimes.engines.api import Answer, Api, Recipe
from tests.runtimes.fake_vllm import Make, model
from tests.runtimes.requests import CPU, no_progress, request

GPU = CPU.model_copy(update={"uuid": "GPU-a", "kind": "gpu"})
AWAKE: Answer = (200, {"is_sleeping": False})
ASLEEP: Answer = (200, {"is_sleeping": True})
IDLE: Answer = (200, {})
OK: Answer = (200, {})
DONE = ["/is_sleeping", "/metrics", "/metrics", "/sleep?level=1"]


class Growing:
    """An inventory whose GPU has more free memory at each look, ``grows`` times."""

    def __init__(self, grows: int) -> None:
        self.grows, self.looks = grows, 0

    def snapshot(self) -> Sequence[Device]:
        self.looks += 1
        free = min(self.looks, self.grows) * GIB
        return (GPU.model_copy(update={"free_bytes": free}), CPU)


class Bench:
    """An `EngineSleep` with what it uses."""

    def __init__(self, *, enabled: bool = True, grows: int = 3) -> None:
        self.clock, self.locks, self.devices = FakeClock(), DeviceLocks(), Growing(grows)
        self.client = EngineClient(recipe=Recipe(), clock=self.clock)
        self.sleep = EngineSleep(
            enabled=enabled,
            client=self.client,
            device_locks=self.locks,
            devices=self.devices,
            clock=self.clock,
        )


def instance(api: Api, *devices: str) -> EngineInstance:
    process = EngineProcess(model="m", pid=1, started=1, boot="b", token="t")
    handle = {"host": "127.0.0.1", "port": api.port, "api_key": "k3y", "devices": devices}
    return EngineInstance.restore(RuntimeName.VLLM, process, handle)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    found = Bench()
    yield found
    await found.client.close()


async def test_an_idle_engine_sleeps_while_nothing_else_uses_its_gpu(bench: Bench) -> None:
    async with Api(is_sleeping=AWAKE, metrics=IDLE, sleep=OK) as api:
        locked: dict[str, bool] = {}
        api.on_request = lambda seen: locked.update({seen.target: bench.locks.locked("n/GPU-a")})
        await bench.sleep.sleep(instance(api, "n/GPU-a"))
    assert api.targets == DONE
    assert api.seen[-1].method == "POST"
    assert locked == {"/is_sleeping": False, "/metrics": False, "/sleep?level=1": True}
    assert bench.devices.looks == 4, "until no more memory comes"
    assert not bench.locks.locked("n/GPU-a")


async def test_an_engine_that_sleeps_is_left_alone(bench: Bench) -> None:
    async with Api(is_sleeping=ASLEEP) as api:
        await bench.sleep.sleep(instance(api, "n/GPU-a"))
    assert api.targets == ["/is_sleeping"]
    assert bench.devices.looks == 0


async def test_on_a_cpu_no_memory_is_waited_for(bench: Bench) -> None:
    async with Api(is_sleeping=AWAKE, metrics=IDLE, sleep=OK) as api:
        await bench.sleep.sleep(instance(api, "n/cpu"))
    assert api.targets == DONE
    assert bench.devices.looks == 0


async def test_an_engine_with_requests_does_not_sleep(bench: Bench) -> None:
    async with Api(is_sleeping=AWAKE, metrics=(200, {"running": 1})) as api:
        with pytest.raises(Unavailable) as failure:
            await bench.sleep.sleep(instance(api, "n/GPU-a"))
    assert str(failure.value) == "m cannot sleep: it still has requests after 30 s"
    assert bench.clock.now == 1030
    assert set(api.targets) == {"/is_sleeping", "/metrics"}


async def test_memory_that_is_not_freed_is_told() -> None:
    bench = Bench(grows=10**6)
    async with Api(is_sleeping=AWAKE, metrics=IDLE, sleep=OK) as api:
        with pytest.raises(Unavailable) as failure:
            await bench.sleep.sleep(instance(api, "n/GPU-a"))
    assert str(failure.value) == "m sleeps, but did not free its device memory"
    assert not bench.locks.locked("n/GPU-a")
    await bench.client.close()


async def test_a_refusal_names_the_setting(bench: Bench) -> None:
    async with Api(is_sleeping=AWAKE, metrics=IDLE, sleep=(404, "")) as api:
        with pytest.raises(Unavailable) as failure:
            await bench.sleep.sleep(instance(api, "n/GPU-a"))
    text = str(failure.value)
    assert text.startswith("the engine of m refused /sleep?level=1 (Client error '404 X'")
    assert text.endswith(
        "set `enable_sleep_mode: true` in vllm.default_settings before it is loaded"
    )


async def test_only_an_engine_that_sleeps_is_woken(bench: Bench) -> None:
    async with Api(is_sleeping=[ASLEEP, AWAKE], wake_up=OK) as api:
        locked: dict[str, bool] = {}
        api.on_request = lambda seen: locked.update({seen.target: bench.locks.locked("n/GPU-a")})
        for _ in range(2):
            await bench.sleep.wake(instance(api, "n/GPU-a"))
    assert [(seen.method, seen.target) for seen in api.seen] == [
        ("GET", "/is_sleeping"),
        ("POST", "/wake_up"),
        ("GET", "/is_sleeping"),
    ]
    assert locked == {"/is_sleeping": True, "/wake_up": True}
    assert not bench.locks.locked("n/GPU-a")


async def test_an_engine_that_cannot_sleep_is_not_asked() -> None:
    bench = Bench(enabled=False)
    async with Api(is_sleeping=ASLEEP) as api:
        assert not await bench.sleep.is_sleeping(instance(api))
    assert api.seen == []
    await bench.client.close()


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
