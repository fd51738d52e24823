"""The status of a runtime with one process per model, and what its driver refuses."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from modelium.config import Vllm
from modelium.errors import LoadFailed, Unavailable
from modelium.models import Device, DeviceKind, RuntimeName, RuntimeStatus
from runtimes.engines.driver import EngineDriver
from runtimes.process import proc
from runtimes.process.compile_caches import CompileCaches
from tests.runtimes.clock import FakeClock
from tests.runtimes.conditions import until
from tests.runtimes.engines.api import Recipe
from tests.runtimes.engines.small import Small, gone, small
from tests.runtimes.fake_vllm import Make
from tests.runtimes.requests import CPU, no_progress

__all__ = ["small"]

PYTHON = Path(sys.executable).resolve()
GPU = CPU.model_copy(update={"uuid": "GPU-a", "kind": "gpu"})


class Devices:
    """An inventory of these devices."""

    def __init__(self, *devices: Device) -> None:
        self.devices = devices

    def snapshot(self) -> Sequence[Device]:
        return self.devices


@pytest.fixture
def command(tmp_path: Path) -> str:
    found = tmp_path / "engine"
    found.touch(mode=0o755)
    return str(found)


Driver = Callable[..., EngineDriver]


@pytest.fixture
async def driver(tmp_path: Path, command: str) -> AsyncIterator[Driver]:
    made: list[EngineDriver] = []

    def build(*devices: Device, recipe: Recipe | None = None, **given: Any) -> EngineDriver:
        section = {"enabled": True, "executable": command, "base_port": 0} | given.pop(
            "section", {}
        )
        made.append(
            EngineDriver(
                config=Vllm.model_validate(section),
                recipe=recipe or Recipe(),
                state_directory=tmp_path,
                clock=FakeClock(),
                devices=Devices(*devices),
                **given,
            )
        )
        return made[-1]

    yield build
    for one in made:
        await one.__aexit__()


@pytest.mark.parametrize(
    ("devices", "can_use", "kinds", "healthy"),
    [
        ((GPU, CPU), None, {"gpu"}, True),
        ((CPU,), None, {"cpu"}, True),
        ((CPU,), {"gpu"}, {"cpu"}, True),
        ((GPU, CPU), {"cpu", "gpu"}, {"cpu", "gpu"}, True),
        ((GPU, CPU), {"cpu"}, {"cpu"}, True),
        ((GPU,), {"cpu"}, {"cpu"}, False),
        ((GPU,), "not known", {"gpu"}, True),
        ((), {"gpu"}, {"cpu"}, True),
    ],
)
async def test_a_runtime_is_healthy_where_its_command_can_use_a_device(
    driver: Driver,
    command: str,
    devices: tuple[Device, ...],
    can_use: set[DeviceKind] | str | None,
    kinds: set[DeviceKind],
    *,
    healthy: bool,
) -> None:
    asked: list[Path] = []

    async def device_kinds(path: Path) -> frozenset[DeviceKind] | None:
        asked.append(path)
        return frozenset(can_use) if isinstance(can_use, set) else None

    made = driver(*devices, device_kinds=device_kinds if can_use is not None else None)
    for _ in range(2):
        assert await made.status() == RuntimeStatus(
            name=RuntimeName.VLLM,
            enabled=True,
            healthy=healthy,
            detail=""
            if healthy
            else f"{command} cannot use GPUs, and devices.cpu_beside_gpus is off",
            device_kinds=frozenset(kinds),
            version="",
            can_sleep=False,
        )
    assert asked == ([Path(command)] if can_use is not None and GPU in devices else [])


@pytest.mark.parametrize(
    ("devices", "name", "enabled", "sleeps"),
    [
        ((GPU,), RuntimeName.VLLM, True, True),
        ((GPU,), RuntimeName.VLLM, False, False),
        ((CPU,), RuntimeName.VLLM, True, False),
        ((GPU,), RuntimeName.LLAMA_CPP, True, False),
    ],
)
async def test_models_sleep_on_gpus_where_they_are_started_for_it(
    driver: Driver, devices: tuple[Device], name: RuntimeName, *, enabled: bool, sleeps: bool
) -> None:
    made = driver(*devices, recipe=Recipe(name=name), sleep_enabled=enabled)
    assert (await made.status()).can_sleep is sleeps


async def test_the_status_names_the_version_of_the_command(driver: Driver, command: str) -> None:
    made = driver(GPU, version=lambda path: f"version of {path}")
    assert (await made.status()).version == f"version of {command}"


async def test_status_names_the_setting_of_a_missing_command(driver: Driver) -> None:
    section = {"executable": "/nonexistent/vllm", "enabled": False}
    assert await driver(GPU, section=section, compiles=True).status() == RuntimeStatus(
        name=RuntimeName.VLLM,
        enabled=False,
        healthy=False,
        detail="command /nonexistent/vllm not found: set vllm.executable",
    )


async def test_what_cannot_sleep_or_does_not_run_is_refused(driver: Driver) -> None:
    made, other = driver(), driver(recipe=Recipe(name=RuntimeName.LLAMA_CPP))
    for call in (made.sleep, made.wake):
        with pytest.raises(Unavailable) as failure:
            await call("m", handle={})
        assert str(failure.value) == "no engine of m is running: load it first"
    for call in (other.sleep, other.wake):
        with pytest.raises(Unavailable) as failure:
            await call("m", handle={})
        assert str(failure.value) == "llama.cpp models cannot sleep: unload instead"


async def test_a_driver_enters_as_itself(driver: Driver) -> None:
    made = driver()
    async with made as entered:
        assert entered is made
        assert entered.name == RuntimeName.VLLM


async def test_a_driver_gives_its_calls_and_what_it_was_given_to_its_host(small: Small) -> None:
    small.state = small.folder / "vllm"
    made = EngineDriver(
        config=Vllm(enabled=True, executable=sys.executable, base_port=0),
        recipe=small.recipe,
        state_directory=small.folder,
        clock=small.clock,
        devices=small.devices,
        device_locks=small.locks,
        version=lambda path: f"of {path}",
        compiles=True,
    )
    async with made:
        async with small.locks.hold(["n/GPU-a"]):
            path = small.model()
            load = asyncio.create_task(made.load(small.request(path, GPU), progress=small.note))
            await until(lambda: small.progress)
            assert small.progress == ["waiting for the device"]
        loaded = await load
        build = f"{PYTHON} of {PYTHON}"
        folders = CompileCaches(root=small.state / "caches", build=build).folders(GPU)
        assert proc.variables(loaded.handle["pid"], folders) == folders
        small.tell(probe=(500, "no"))
        assert await made.check("m", handle=loaded.handle) == "/probe answers 500: no"
        assert [running.model for running in await made.discover({})] == ["m"]
        assert list(await made.stats()) == ["m"]
        await made.end(grace_s=0)
        assert gone(loaded.handle["pid"])
        other = small.request(small.model("other", hangs=True))
        load = asyncio.create_task(made.load(other, progress=no_progress))
        await until(lambda: small.ports("other"))
    with pytest.raises(LoadFailed, match="unloaded while it was loading"):
        await load
    with pytest.raises(RuntimeError, match="closed"):
        await made._client.stats(loaded.upstream.model_copy(update={"user": None}))


@pytest.mark.parametrize(("limit_s", "timeout_s"), [(30, 5), (15, 5), (6, 2)])
async def test_a_look_takes_a_third_of_the_patience_and_never_more_than_five_seconds(
    driver: Driver, limit_s: float, timeout_s: float
) -> None:
    made = driver(section={"unhealthy_after_seconds": limit_s})
    assert made._client._timeout_s == timeout_s


async def test_the_fake_engine_is_a_healthy_runtime(make: Make) -> None:
    assert (await make().status()).healthy
