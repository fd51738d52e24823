"""Who goes first on the way to the Prefect server."""

import asyncio

from flows.runner.turns import Turn, Turns


async def test_a_run_that_ends_lets_those_that_begin_go_first() -> None:
    turns = Turns(2)
    order: list[str] = []
    begun = asyncio.Event()

    async def ends() -> None:
        async with Turn(turns) as own:
            own.pause()
            begun.set()
            await asyncio.sleep(0.05)
            await own.resume()
            order.append("ended")

    async def begins() -> None:
        await begun.wait()
        async with Turn(turns) as own:
            await asyncio.sleep(0.2)
            own.pause()
            order.append("begun")

    await asyncio.gather(ends(), begins())
    assert order == ["begun", "ended"]


async def test_a_run_whose_stage_works_holds_no_slot() -> None:
    turns = Turns(1)
    async with Turn(turns) as first:
        first.pause()
        async with asyncio.timeout(5), Turn(turns) as second:
            second.pause()
        await first.resume()


async def test_a_run_that_could_not_begin_is_in_nobodys_way() -> None:
    turns = Turns(1)
    for _ in range(2):
        async with Turn(turns):
            pass
    waits = asyncio.create_task(Turn(turns).__aenter__())
    async with Turn(turns) as own:
        waits.cancel()
        await asyncio.wait({waits})
        own.pause()
        assert turns.calm.is_set()
        await own.resume()
