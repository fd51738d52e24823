from __future__ import annotations

import asyncio

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
