"""A second request for work that is going on joins the first."""

from __future__ import annotations

import asyncio

import pytest

from modelium.models import Report
from modelium.stages.ongoing import Ongoing

DONE = Report(stage="evict", outcome="removed")


class Work:
    """Work that ends when a test lets it, and counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> Report:
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0)  # it cleans up
            self.cancelled += 1
            raise
        if self.failure:
            raise self.failure
        return DONE


async def joined(ongoing: Ongoing, work: Work, key: str = "a") -> asyncio.Task[Report]:
    task = asyncio.create_task(ongoing.join(key, work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_a_second_caller_gets_the_outcome_of_the_first_ones_work() -> None:
    ongoing, work = Ongoing(), Work()
    callers = [await joined(ongoing, work) for _ in range(3)]
    assert not ongoing.is_due("a", 0.0) and ongoing.is_due("b", 0.0)
    work.gate.set()
    assert await asyncio.gather(*callers) == [DONE] * 3
    assert work.begun == 1
    assert ongoing.is_due("a", 0.0)
    assert await ongoing.join("a", work) == DONE
    assert work.begun == 2


async def test_work_of_another_key_is_another() -> None:
    ongoing, work, other = Ongoing(), Work(), Work()
    await joined(ongoing, work)
    other.gate.set()
    assert await ongoing.join("b", other) == DONE
    assert (work.begun, other.begun) == (1, 1)
    work.gate.set()


async def test_its_failure_is_every_callers() -> None:
    ongoing, work = Ongoing(), Work()
    work.failure = RuntimeError("no")
    callers = [await joined(ongoing, work) for _ in range(2)]
    work.gate.set()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert ended == [work.failure] * 2
    assert ongoing.is_due("a", 0.0)


async def test_work_goes_on_until_its_last_caller_leaves() -> None:
    ongoing, work = Ongoing(), Work()
    callers = [await joined(ongoing, work) for _ in range(3)]
    for leaving in callers[:2]:
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert work.cancelled == 0
    callers[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[2]
    assert work.cancelled == 2, "its clean-up is waited for"
    assert ongoing.is_due("a", 0.0)


async def test_who_joins_after_another_left_keeps_the_work_alive() -> None:
    ongoing, work = Ongoing(), Work()
    first, second = await joined(ongoing, work), await joined(ongoing, work)
    first.cancel()
    await asyncio.wait({first})
    third = await joined(ongoing, work)
    second.cancel()
    await asyncio.wait({second})
    work.gate.set()
    assert await third == DONE
    assert (work.begun, work.cancelled) == (1, 0)


def test_postponed_work_is_due_at_its_instant() -> None:
    ongoing = Ongoing()
    ongoing.postpone("a", 30.0)
    assert not ongoing.is_due("a", 29.9)
    assert ongoing.is_due("a", 30.0) and ongoing.is_due("a", 30.1)
    assert ongoing.is_due("b", 0.0)
