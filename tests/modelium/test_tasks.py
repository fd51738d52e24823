"""Background tasks."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from modelium.tasks import BackgroundTasks, on_thread

pytestmark = pytest.mark.slow


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


async def test_a_cancellation_waits_for_what_runs_on_a_thread() -> None:
    began, end, ended = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        end.wait()
        ended.append(True)

    running = asyncio.create_task(on_thread(work))
    await began.wait()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    assert not running.done()
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == [True]
