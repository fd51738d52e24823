"""A load that this process is at can be ended, and whoever waits for it is told how it ended."""

from __future__ import annotations

import asyncio

import pytest

from modelium.errors import LoadFailed
from modelium.models import Report
from modelium.stages.loads import Loads

READY = Report(stage="load", outcome="ready")


class Work:
    """A load that ends when a test lets it, or a while after it is cancelled."""

    def __init__(self, *, at_the_end: Exception | None = None, deaf: bool = False) -> None:
        self.gate, self.clean_up = asyncio.Event(), asyncio.Event()
        self.ended = False
        self._failure, self._deaf = at_the_end, deaf

    async def __call__(self) -> Report:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await self.clean_up.wait()
            self.ended = True
            if self._failure:
                raise self._failure from None
            if self._deaf:
                return READY
            raise
        if self._failure:
            raise self._failure
        return READY


async def begun(loads: Loads, work: Work, name: str = "m") -> asyncio.Task[Report | None]:
    task = asyncio.create_task(loads.run(name, work()))
    await idle()
    return task


async def idle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_load_returns_its_report() -> None:
    loads, work = Loads(), Work()
    task = await begun(loads, work)
    assert not loads.is_aborted("m")
    work.gate.set()
    assert await task == READY
    assert await loads.abort("m") is False, "it has ended"


async def test_a_load_raises_what_it_fails_with() -> None:
    loads, work = Loads(), Work(at_the_end=LoadFailed("bad magic"))
    work.gate.set()
    with pytest.raises(LoadFailed, match="bad magic"):
        await loads.run("m", work())
    assert not loads.is_aborted("m")


@pytest.mark.parametrize("failure", [None, LoadFailed("it could not be ended")])
async def test_an_aborted_load_has_no_report_and_its_clean_up_is_waited_for(
    failure: Exception | None,
) -> None:
    loads, work = Loads(), Work(at_the_end=failure)
    another = Work()
    task, other = await begun(loads, work), await begun(loads, another, "other")
    aborting = asyncio.create_task(loads.abort("m"))
    await idle()
    assert not aborting.done() and not task.done()
    assert loads.is_aborted("m") and not loads.is_aborted("other")
    work.clean_up.set()
    assert await aborting is True
    assert await task is None
    assert not loads.is_aborted("m") and not other.done()
    another.gate.set()
    assert await other == READY


async def test_a_load_that_ends_well_all_the_same_keeps_its_report() -> None:
    loads, work = Loads(), Work(deaf=True)
    task = await begun(loads, work)
    work.clean_up.set()
    assert await loads.abort("m") is True
    assert await task == READY


async def test_a_load_whose_run_is_cancelled_is_not_aborted() -> None:
    loads, work = Loads(), Work()
    task = await begun(loads, work)
    task.cancel()
    await idle()
    assert not task.done() and not loads.is_aborted("m")
    work.clean_up.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended
    assert await loads.abort("m") is False


async def test_a_load_that_was_cancelled_within_is_its_runs_cancellation() -> None:
    loads = Loads()

    async def cancelled() -> Report:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await loads.run("m", cancelled())


async def test_the_end_of_a_load_does_not_hide_the_next_one_of_its_model() -> None:
    loads, first, second = Loads(), Work(), Work()
    one, other = await begun(loads, first), await begun(loads, second)
    first.gate.set()
    assert await one == READY
    second.clean_up.set()
    assert await loads.abort("m") is True
    assert await other is None


async def test_there_is_nothing_to_abort_where_nothing_is_loaded() -> None:
    loads = Loads()
    assert await loads.abort("m") is False
    assert not loads.is_aborted("m")
