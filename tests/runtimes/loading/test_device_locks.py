from __future__ import annotations

import asyncio

from runtimes.loading.device_locks import DeviceLocks


async def test_a_device_is_held_by_one_load_at_a_time() -> None:
    locks, order = DeviceLocks(), list[str]()

    async def load(name: str) -> None:
        async with locks.hold(["gpu"]):
            order.append(f"{name} starts")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    await asyncio.gather(load("a"), load("b"))
    assert order == ["a starts", "a ends", "b starts", "b ends"]
    assert not locks.locked("gpu")


async def test_loads_on_the_same_devices_do_not_deadlock_whatever_their_order() -> None:
    locks = DeviceLocks()

    async def load(*devices: str) -> None:
        async with locks.hold(devices):
            assert all(map(locks.locked, devices))
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(load("a", "b"), load("b", "a", "b"), load("b"))
