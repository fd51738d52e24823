"""Which run may talk to the Prefect server first."""

import asyncio

from flows.runner.api_slots import ApiSlot, ApiSlots


async def test_a_run_that_ends_waits_for_runs_that_begin() -> None:
    slots = ApiSlots(2)
    order: list[str] = []
    begun, ending = asyncio.Event(), asyncio.Event()

    async def ends() -> None:
        async with ApiSlot(slots) as own:
            own.pause()
            begun.set()
            await ending.wait()
            await own.resume()
            order.append("ended")

    async def begins() -> None:
        await begun.wait()
        async with ApiSlot(slots) as own:
            ending.set()
            for _ in range(10):  # the other run has every chance to go first
                await asyncio.sleep(0)
            own.pause()
            order.append("begun")

    await asyncio.gather(ends(), begins())
    assert order == ["begun", "ended"]


async def test_a_run_whose_stage_works_holds_no_slot() -> None:
    slots = ApiSlots(1)
    async with ApiSlot(slots) as first:
        first.pause()
        async with asyncio.timeout(5), ApiSlot(slots) as second:
            second.pause()
        await first.resume()


async def test_a_run_that_could_not_begin_delays_nobody() -> None:
    slots = ApiSlots(1)
    for _ in range(2):
        async with ApiSlot(slots):
            pass
    waits = asyncio.create_task(ApiSlot(slots).__aenter__())
    async with ApiSlot(slots) as own:
        waits.cancel()
        await asyncio.wait({waits})
        own.pause()
        assert slots.none_begins.is_set()
        await own.resume()
