"""No intent and no decision stays open that nobody is at."""

from __future__ import annotations

import asyncio
import logging

import pytest

from modelium.control.abandoned import FORGOTTEN, RESTARTED, Abandoned, _under_way
from modelium.control.operations import Operations
from modelium.control.recovery import recover
from modelium.lifecycle import ModelState
from modelium.models import Decision, Deployment, Intent, Load, Plan, RuntimeName, Trigger, Unload
from modelium.stages.evict import evict
from tests.fakes.fleets import loaded, model
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
    await world.eventually(lambda: world.store.decisions.get(decision).outcome != "accepted")
    ended, made = world.store.intents.get(intent), world.store.decisions.get(decision)
    assert (ended.state, ended.detail) == ("failed", RESTARTED)
    # Settling it says "while loading"; the clearing at the start may be there first.
    assert made.outcome == "failed" and made.detail.startswith(RESTARTED)
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
    world.store.states.requeue("tiny", reason="somebody else")
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


def undertaken(*actions: Load | Unload, id: str = "d", at: float = 5.0) -> Decision:
    plan = Plan(author="rules", trigger=Trigger.SWEEP, actions=actions)
    return Decision(id=id, at=at, plan=plan, snapshot_digest="")


def load_of(name: str) -> Load:
    return Load(model=name, runtime=RuntimeName.VLLM, devices=(), reserve={}, reason="")


def deployed(at: float) -> Deployment:
    found = loaded("a", "n/GPU-1").deployment
    assert found is not None
    return found.model_copy(update={"started_at": at})


@pytest.mark.parametrize(
    ("state", "began", "under_way"),
    [
        (ModelState.LOADING, 5.0, True),
        (ModelState.LOADING, 4.0, False),
        (ModelState.LOADING, None, False),
        (ModelState.READY, 5.0, False),
        (None, None, False),
    ],
)
def test_a_load_is_under_way_while_what_it_began_is_loading(
    state: ModelState | None, began: float | None, under_way: bool
) -> None:
    deployment = None if began is None else deployed(began)
    models = {} if state is None else {"a": model("a", state=state, deployment=deployment)}
    assert _under_way(undertaken(load_of("a")), models) is under_way
    assert _under_way(undertaken(load_of("b"), load_of("a")), models) is under_way


@pytest.mark.parametrize(
    ("state", "under_way"),
    [
        (ModelState.DRAINING, True),
        (ModelState.UNLOADING, True),
        (ModelState.READY, False),
        (None, False),
    ],
)
def test_an_unload_is_under_way_while_its_model_goes(
    state: ModelState | None, under_way: bool
) -> None:
    models = {} if state is None else {"a": model("a", state=state)}
    beside: list[tuple[Load | Unload, ...]] = [
        (), (Unload(model="b", reason=""),), (load_of("b"),),
    ]  # fmt: skip
    for others in beside:
        made = undertaken(*others, Unload(model="a", reason=""))
        assert _under_way(made, models) is under_way


async def test_what_is_idle_at_two_looks_is_settled_and_nothing_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store, abandoned = world.store, Abandoned(services=world.services)
    for id, at in (("d1", 0.5), ("d2", 9.0)):
        store.decisions.record(undertaken(id=id, at=at))
    for id in ("i1", "i2"):
        store.intents.save(Intent(id=id, at=5.0, kind="load"))
    await abandoned.settle()
    assert {store.decisions.get(id).outcome for id in ("d1", "d2")} == {"accepted"}
    assert "settled" not in caplog.text
    world.services.attended.add("i2")
    store.decisions.record(undertaken(id="d3", at=10.0))
    await abandoned.settle()
    assert [store.decisions.get(id).outcome for id in ("d1", "d2", "d3")] == [
        "failed", "failed", "accepted",
    ]  # fmt: skip
    assert store.decisions.get("d1").detail == FORGOTTEN
    assert [store.intents.get(id).state for id in ("i1", "i2")] == ["failed", "pending"]
    assert "3 requests and decisions were settled as failed" in caplog.text
    world.services.attended.clear()
    await abandoned.settle()
    assert store.decisions.get("d3").outcome == "failed"
    assert store.intents.get("i2").state == "pending", "attended at the last look"
    await abandoned.settle()
    assert store.intents.get("i2").state == "failed"


async def test_what_was_asked_before_this_life_is_settled_at_once(world: World) -> None:
    for id, at in (("old", 4.0), ("new", 5.0)):
        world.store.intents.save(Intent(id=id, at=at, kind="load"))
        world.store.decisions.record(undertaken(id=id, at=at))
    await Abandoned(services=world.services).settle_earlier(before=5.0)
    assert [world.store.intents.get(id).state for id in ("old", "new")] == ["failed", "pending"]
    assert world.store.decisions.get("old").detail == RESTARTED
    assert world.store.decisions.get("new").outcome == "accepted"
