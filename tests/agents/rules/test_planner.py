from __future__ import annotations

import asyncio
import threading
from typing import Any

from agents.rules.planner import RulePlanner
from modelium.models import (
    Footprint,
    Trigger,
)
from modelium.ports import Question
from tests.agents.rules.asking import ask, shape
from tests.fakes.fleets import NOW, estimate, fleet, loaded, model, policy


async def test_planning_does_not_block_the_event_loop() -> None:
    went_on = threading.Event()

    def slow(*given: Any, **more: Any) -> Footprint:
        assert went_on.wait(timeout=10)
        return estimate(*given, **more)

    asyncio.get_running_loop().call_soon(went_on.set)
    question = Question(trigger=Trigger.DEMAND, model="a", now=NOW)
    plan = await RulePlanner(estimate=slow).decide(question, fleet(model("a", 20)), policy())
    assert shape(plan) == [("load", "a")]


def test_with_orchestration_off_there_are_no_actions() -> None:
    world = fleet(model("a"), loaded("b", "n/g0", idle_s=9000))
    by = policy(enabled=False)
    assert shape(ask(world, Trigger.DEMAND, "a", by)) == [("keep", "a")]
    assert ask(world, Trigger.SWEEP, by=by).actions == ()
