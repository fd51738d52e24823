"""The control loop plans once and hands its plan on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.rules.planner import RulePlanner
from modelium.control.loop import Loop
from modelium.models import Fleet, Plan, Trigger
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Question
from modelium.stages.evict import evict
from modelium.stages.ingest import ingest
from modelium.stages.services import provide
from tests.modelium.conftest import World
from tests.samples import tiny_onnx


class CountingBrain:
    """The rules, and what they were asked for."""

    def __init__(self) -> None:
        self.rules = RulePlanner()
        self.asked: list[Trigger] = []

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        return None

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        self.asked.append(question.trigger)
        return await self.rules.decide(question, fleet, policy, advice)


@pytest.fixture
async def brain(world: World) -> CountingBrain:
    """One loaded model that has been idle for longer than the policy allows."""
    tiny_onnx(world.incoming / "tiny")
    await ingest(world.services, path=str(world.incoming / "tiny"))
    await world.settled("tiny", "ready")
    brain = CountingBrain()
    policy = world.services.policy.model_copy(update={"auto_unload_after_s": 0.0})
    world.services = replace(world.services, brain=brain, policy=policy)
    provide(world.services)
    return brain


async def test_a_sweep_is_planned_once(world: World, brain: CountingBrain) -> None:
    await Loop(services=world.services, signals=world.signals).tick()
    assert await world.settled("tiny", "unloaded") == "unloaded"
    assert brain.asked == [Trigger.SWEEP]
    (made,) = [
        d for d in world.store.decisions.newest(model="tiny") if d.plan.trigger is Trigger.SWEEP
    ]
    assert made.outcome == "done"


async def test_a_plan_that_others_overtook_is_made_anew(world: World, brain: CountingBrain) -> None:
    plan = Plan(author="rules", trigger=Trigger.SWEEP, revision=world.store.revision() - 1)
    await world.services.launcher.decide(trigger=Trigger.SWEEP, plan=plan)
    assert await world.settled("tiny", "unloaded") == "unloaded"
    assert brain.asked == [Trigger.SWEEP]


async def test_a_scheduled_sweep_is_recorded_without_planning(
    world: World, brain: CountingBrain
) -> None:
    await Loop(services=world.services, signals=world.signals).tick()
    report = await evict(world.services)
    assert brain.asked == [Trigger.SWEEP]
    assert report.stage == "evict"
    assert report.decision == world.store.decisions.newest(model="tiny")[0].id


async def test_a_sweep_is_decided_where_the_loop_does_not_run(
    world: World, brain: CountingBrain
) -> None:
    await evict(world.services)
    assert await world.settled("tiny", "unloaded") == "unloaded"
    assert brain.asked == [Trigger.SWEEP]
