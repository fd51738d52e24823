"""Work of one name goes one after the other, and sometimes none goes at all."""

from __future__ import annotations

import asyncio

from modelium.stages.turns import Turns


class Scene:
    """Tasks that take their turns, and what they did."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.said: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def begin(self, who: str, key: str) -> asyncio.Task[None]:
        """Return a task that has, or waits for, the turn of ``key`` until its gate is opened."""
        self.gates[who] = asyncio.Event()
        task = asyncio.create_task(self._take(who, key))
        await settle()
        return task

    async def end(self, who: str) -> None:
        self.gates[who].set()
        await settle()

    async def _take(self, who: str, key: str) -> None:
        async with self.turns.of(key):
            self.said.append(f"{who} in")
            await self.gates[who].wait()
        self.said.append(f"{who} out")


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_turns_of_one_key_come_one_after_the_other_in_the_order_of_asking() -> None:
    scene = Scene()
    assert scene.turns.is_free("a")
    for who in ("first", "second", "third"):
        await scene.begin(who, "a")
    assert scene.said == ["first in"]
    for who in ("first", "second", "third"):
        assert not scene.turns.is_free("a")
        await scene.end(who)
    assert scene.said == [
        "first in",
        "first out",
        "second in",
        "second out",
        "third in",
        "third out",
    ]
    assert scene.turns.is_free("a")


async def test_turns_of_different_keys_are_had_at_once() -> None:
    scene = Scene()
    await scene.begin("one", "a")
    await scene.begin("other", "b")
    assert scene.said == ["one in", "other in"]
    await scene.end("one")
    assert scene.turns.is_free("a") and not scene.turns.is_free("b")
    await scene.end("other")
    assert scene.turns.is_free("b")


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    scene = Scene()
    await scene.begin("first", "a")
    waiting = await scene.begin("second", "a")
    waiting.cancel()
    await settle()
    assert not scene.turns.is_free("a")
    await scene.end("first")
    assert scene.turns.is_free("a")
    await scene.begin("third", "a")
    assert scene.said == ["first in", "first out", "third in"]
    await scene.end("third")


async def test_no_turn_begins_while_somebody_is_alone() -> None:
    scene = Scene()
    async with scene.turns.alone() as alone:
        assert alone is True
        await scene.begin("late", "a")
        assert scene.said == []
        async with scene.turns.alone() as second:
            assert second is False, "another one is"
        await settle()
        assert scene.said == [], "whoever was not alone ends nothing"
    await settle()
    assert scene.said == ["late in"]
    await scene.end("late")
    async with scene.turns.alone() as again:
        assert again is True


async def test_nobody_is_alone_while_a_turn_is_had() -> None:
    scene = Scene()
    await scene.begin("first", "a")
    async with scene.turns.alone() as alone:
        assert alone is False
        await scene.begin("other", "b")
        assert scene.said == ["first in", "other in"], "it keeps nobody out"
    await scene.end("first")
    await scene.end("other")
