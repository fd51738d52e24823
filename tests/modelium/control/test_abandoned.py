"""No intent and no decision stays open that nobody is at."""

from __future__ import annotations

import asyncio

from modelium.control.abandoned import FORGOTTEN, RESTARTED, Abandoned
from modelium.control.operations import Operations
from modelium.control.recovery import recover
from modelium.models import Intent, Trigger
from modelium.stages.evict import evict
from tests.modelium.conftest import World


async def died(world: World) -> tuple[str, str]:
    """What a service that was killed while it loaded for an operator leaves: intent, decision."""
    await world.load()
    await evict(world.services, models=["tiny"])
    decided = await world.launcher.decide(model="tiny", trigger=Trigger.OPERATOR, carry_out=False)
    assert decided.decision is not None
    world.store.intents.save(Intent(id="dead", at=world.clock.time(), kind="load", model="tiny"))
    return "dead", decided.decision


async def test_what_a_restart_interrupted_is_settled_at_the_start(world: World) -> None:
    intent, decision = await died(world)
    assert world.store.decisions.get(decision).outcome == "accepted"
    world.clock.advance(1)
    await recover(world.services)
    ended, made = world.store.intents.get(intent), world.store.decisions.get(decision)
    assert (ended.state, ended.detail) == ("failed", RESTARTED)
    assert (made.outcome, made.detail) == ("failed", f"{RESTARTED} while loading")
    assert ended.finished_at is not None and made.finished_at is not None


async def test_what_this_life_was_asked_for_is_left_alone(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    operations = Operations(services=world.services)
    asked = await operations.load("tiny")
    await world.runtime.asked.wait()
    abandoned = Abandoned(services=world.services)
    world.clock.advance(1)
    await abandoned.settle_earlier(before=world.clock.time())
    for _ in range(3):
        await abandoned.settle()
    assert world.store.intents.get(asked.id).state == "pending"
    (decision, *_rest) = world.store.decisions.newest(model="tiny", limit=1)
    assert decision.outcome == "accepted"
    world.runtime.gate.set()
    await world.eventually(lambda: world.store.intents.get(asked.id).state == "done")
    assert world.store.decisions.get(decision.id).outcome == "done"
    await operations.aclose()
    await world.idle()
    assert not world.services.attended


async def test_an_intent_whose_task_died_is_settled_without_a_restart(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    operations = Operations(services=world.services)
    asked = await operations.load("tiny")
    await world.runtime.asked.wait()
    await operations.aclose()  # its task is cancelled
    await asyncio.sleep(0)
    abandoned = Abandoned(services=world.services)
    await abandoned.settle()
    assert world.store.intents.get(asked.id).state == "pending", "it may be about to record it"
    await abandoned.settle()
    ended = world.store.intents.get(asked.id)
    assert (ended.state, ended.detail) == ("failed", FORGOTTEN)
    world.runtime.gate.set()


async def test_a_decision_whose_models_went_elsewhere_is_settled(world: World) -> None:
    _intent, decision = await died(world)
    abandoned = Abandoned(services=world.services)
    await abandoned.settle()
    await abandoned.settle()
    assert world.store.decisions.get(decision).outcome == "accepted", "its model is loading"
    world.store.requeue("tiny", reason="somebody else")
    await abandoned.settle()
    await abandoned.settle()
    assert world.store.decisions.get(decision).outcome == "failed"


async def test_a_decision_to_wait_has_ended(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.devices.devices = ()
    decided = await world.launcher.decide(model="tiny", trigger=Trigger.OPERATOR, carry_out=False)
    assert decided.outcome == "queued" and decided.decision is not None
    assert world.store.decisions.get(decided.decision).outcome == "done"
