from __future__ import annotations

import asyncio

import pytest

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
    assert not locks.locked("never seen")


async def test_loads_on_the_same_devices_do_not_deadlock_whatever_their_order() -> None:
    locks = DeviceLocks()

    async def load(*devices: str) -> None:
        async with locks.hold(devices):
            assert all(map(locks.locked, devices))
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(load("a", "b"), load("b", "a", "b"), load("b"))


async def test_nobody_waits_for_a_cpu() -> None:
    locks = DeviceLocks()
    async with asyncio.timeout(60), locks.hold(["n/cpu", "n/gpu"]):
        assert not locks.locked("n/cpu")
        assert locks.locked("n/gpu")
        async with locks.hold(["n/cpu"]):
            pass


async def test_devices_that_were_waited_for_in_vain_are_let_go() -> None:
    locks = DeviceLocks()
    async with locks.hold(["b"]):
        waiting = asyncio.create_task(locks.hold(["b", "a"]).__aenter__())
        await asyncio.sleep(0)
        assert locks.locked("a"), "they are taken in order"
        waiting.cancel()
        await asyncio.wait({waiting})
        assert not locks.locked("a")
        assert locks.locked("b")
    assert not locks.locked("b")


async def test_a_turn_that_ends_early_lets_the_next_one_begin_and_ends_once() -> None:
    locks = DeviceLocks()
    async with asyncio.timeout(60):
        async with locks.hold(["a", "b"]) as turn:
            turn.end()
            assert not locks.locked("a") and not locks.locked("b")
            async with locks.hold(["a"]):
                turn.end()
                assert locks.locked("a")
                await turn.add(asyncio.Lock())
        assert not locks.locked("a")


async def test_a_load_that_fails_lets_its_devices_go() -> None:
    locks = DeviceLocks()
    with pytest.raises(ZeroDivisionError):
        async with locks.hold(["a"]):
            raise ZeroDivisionError
    assert not locks.locked("a")
