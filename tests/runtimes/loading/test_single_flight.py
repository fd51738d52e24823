from __future__ import annotations

import asyncio
import gc

import pytest

from modelium.errors import FailureKind, LoadFailed
from modelium.models import Upstream
from modelium.ports import Loaded, Progress
from runtimes.loading.single_flight import SingleFlight
from tests.runtimes.requests import no_progress

LOADED = Loaded(
    upstream=Upstream(host="h", port=1, served_name="m", apis=frozenset({"openai"})), handle={}
)


class Load:
    """A load that goes on when the test says so."""

    def __init__(self) -> None:
        self.starts = 0
        self.started, self.finish = asyncio.Event(), asyncio.Event()
        self.cleaned_up = False

    async def __call__(self, progress: Progress) -> Loaded:
        self.starts += 1
        self.started.set()
        try:
            await self.finish.wait()
            progress("loading", 0.5)
            return LOADED
        finally:
            await asyncio.sleep(0)
            self.cleaned_up = True


async def test_all_callers_share_one_load_and_its_progress() -> None:
    flights, load, seen = SingleFlight(), Load(), list[str]()
    callers = [
        asyncio.create_task(flights.run("m", load, lambda phase, _: seen.append(phase)))
        for _ in range(3)
    ]
    await load.started.wait()
    assert "m" in flights
    load.finish.set()
    assert await asyncio.gather(*callers) == [LOADED] * 3
    assert load.starts == 1
    assert seen == ["loading"] * 3
    assert "m" not in flights


async def test_a_load_is_cancelled_with_its_last_caller() -> None:
    flights, load = SingleFlight(), Load()
    first, second = (asyncio.create_task(flights.run("m", load, no_progress)) for _ in range(2))
    await load.started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not load.cleaned_up
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert load.cleaned_up


async def test_cancelling_a_model_fails_its_callers_once_the_load_has_cleaned_up() -> None:
    flights, load = SingleFlight(), Load()
    caller = asyncio.create_task(flights.run("m", load, no_progress))
    await load.started.wait()
    await flights.cancel("m")
    assert load.cleaned_up
    with pytest.raises(LoadFailed, match="unloaded while it was loading") as failure:
        await caller
    assert failure.value.kind == FailureKind.KILLED


async def test_a_caller_that_comes_later_hears_of_what_is_still_to_come() -> None:
    flights, seen = SingleFlight(), list[tuple[str, str, float | None]]()
    first_done, finish = asyncio.Event(), asyncio.Event()

    async def start(progress: Progress) -> Loaded:
        progress("reading", None)
        first_done.set()
        await finish.wait()
        progress("loading", 0.5)
        return LOADED

    def caller(name: str) -> asyncio.Task[Loaded]:
        def note(phase: str, share: float | None) -> None:
            seen.append((name, phase, share))

        return asyncio.create_task(flights.run("m", start, note))

    first, gone = caller("first"), caller("gone")
    await first_done.wait()
    second = caller("second")
    gone.cancel()
    await asyncio.wait({gone})
    finish.set()
    assert await asyncio.gather(first, second) == [LOADED] * 2
    assert seen == [
        *(("first", "reading", None), ("gone", "reading", None)),
        *(("first", "loading", 0.5), ("second", "loading", 0.5)),
    ]


async def test_a_load_that_fails_fails_all_its_callers_and_is_over() -> None:
    flights, finish = SingleFlight(), asyncio.Event()

    async def start(progress: Progress) -> Loaded:
        await finish.wait()
        raise ZeroDivisionError

    callers = [asyncio.create_task(flights.run("m", start, no_progress)) for _ in range(2)]
    await asyncio.sleep(0)
    finish.set()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert list(map(type, found)) == [ZeroDivisionError] * 2
    assert "m" not in flights
    load = Load()
    load.finish.set()
    assert await flights.run("m", load, no_progress) == LOADED, "it is tried anew"


async def test_a_failure_that_nobody_waits_for_any_more_is_not_complained_about() -> None:
    flights, complaints = SingleFlight(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))

    async def start(progress: Progress) -> Loaded:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    caller = asyncio.create_task(flights.run("m", start, no_progress))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await flights.cancel()
    with pytest.raises(ZeroDivisionError):
        await caller
    caller = asyncio.create_task(flights.run("m", start, no_progress))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert "m" not in flights
    del caller
    gc.collect()
    assert complaints == []


async def test_all_or_one_model_is_cancelled() -> None:
    flights, first, second = SingleFlight(), Load(), Load()
    callers = [
        asyncio.create_task(flights.run(name, load, no_progress))
        for name, load in (("a", first), ("b", second))
    ]
    await asyncio.gather(first.started.wait(), second.started.wait())
    await flights.cancel("never seen")
    await flights.cancel("a")
    assert (first.cleaned_up, second.cleaned_up) == (True, False)
    assert ("a" in flights, "b" in flights) == (False, True)
    await flights.cancel()
    assert second.cleaned_up
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(failure) for failure in found] == [
        f"{name} was unloaded while it was loading" for name in ("a", "b")
    ]


async def test_a_caller_that_is_cancelled_with_its_load_is_cancelled() -> None:
    flights, load = SingleFlight(), Load()
    caller = asyncio.create_task(flights.run("m", load, no_progress))
    await load.started.wait()
    cancelling = asyncio.create_task(flights.cancel("m"))
    await asyncio.sleep(0)
    caller.cancel()
    await cancelling
    with pytest.raises(asyncio.CancelledError):
        await caller
