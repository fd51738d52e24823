"""Background tasks."""

from __future__ import annotations

import asyncio
import gc

from modelium.tasks import BackgroundTasks


async def test_a_task_that_nobody_holds_is_not_collected() -> None:
    tasks, gate, done = BackgroundTasks(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        done.set()

    tasks.start(work())
    await asyncio.sleep(0)
    gc.collect()
    gate.set()
    async with asyncio.timeout(10):
        await done.wait()


async def test_closing_waits_for_clean_up() -> None:
    tasks, begun, cleaned = BackgroundTasks(), asyncio.Event(), []

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    tasks.start(work())
    await begun.wait()
    await tasks.aclose()
    assert cleaned == [True]
