"""A decision is planned, booked, carried out and recorded, with an LLM or without."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelium.errors import InputError
from modelium.lifecycle import ModelState
from modelium.models import (
    Decision,
    Keep,
    Plan,
    Priority,
    Queue,
    Reject,
    RuntimeName,
    Trigger,
    Unload,
)
from modelium.stages.decide import decide, report
from tests.fakes.llm import calls
from tests.modelium.conftest import Advised, World

pytestmark = pytest.mark.slow

CHOICE = {"reason": "its card says production", "runtime": "ray_serve", "priority": "high"}


async def test_every_decision_can_be_read_afterwards(world: World) -> None:
    await world.load()
    made = world.store.decisions.newest(model="tiny")
    assert [d.outcome for d in made] == ["done"]
    assert made[0].plan.author == "rules"
    assert made[0].plan.actions[0].reason


async def test_a_model_displaced_by_a_better_class_before_it_was_used_is_queued(
    world: World,
) -> None:
    await world.load()
    leave = Unload(model="tiny", requeue=True, reason="makes room for production")
    plan = Plan(
        author="rules",
        trigger=Trigger.SWEEP,
        actions=(leave,),
        reason="room",
        revision=world.store.revision(),
    )
    await decide(world.services, trigger="sweep", plan=plan)
    left = world.store.model("tiny")
    assert left.state is ModelState.QUEUED
    assert left.queued_at is not None
    assert not world.store.view()[2]


async def test_a_decision_that_the_caller_carries_out_starts_nothing(world: World) -> None:
    await world.load()
    await world.launcher.evict(models=["tiny"])
    made = await decide(world.services, model="tiny", trigger="operator", carry_out=False)
    assert (made.stage, made.outcome, made.model) == ("decide", "load", "tiny")
    assert world.store.model("tiny").state is ModelState.LOADING
    assert world.runtime.loads == 1


def test_the_report_names_what_the_plan_does_with_its_subject() -> None:
    def outcome(*actions: Any) -> str:
        plan = Plan(author="rules", trigger=Trigger.SWEEP, actions=actions)
        decision = Decision(id="d", at=0.0, plan=plan, snapshot_digest="")
        return report(decision, "a").outcome

    assert outcome() == "nothing"
    assert outcome(Unload(model="a", reason="")) == "unload"
    assert outcome(Queue(model="a", reason="")) == "queued"
    assert outcome(Reject(model="a", reason="")) == "rejected"
    assert outcome(Keep(model="a", reason="")) == "keep"
    assert outcome(Unload(model="b", reason="")) == "planned"


async def test_a_drop_is_decided_with_the_llm_and_all_of_it_is_recorded(advised: Advised) -> None:
    def plays(body: Any) -> Any:
        if len(body["messages"]) == 2:
            return {"calls": [("decisions", {}), ("card", {"model": "tiny"}), ("policy", {})]}
        return calls("decide", CHOICE)

    fake = await advised.played_by(plays, triton=True)
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    model = advised.world.store.model("tiny")
    assert model.priority is Priority.HIGH
    assert model.preference and model.preference.runtime is RuntimeName.RAY_SERVE
    assert model.deployment and model.deployment.runtime is RuntimeName.RAY_SERVE
    (made,) = advised.world.store.decisions.newest(model="tiny")
    assert (made.plan.author, made.plan.trigger) == ("llm", Trigger.INGEST)
    assert made.trace["rules"][0]["runtime"] == "triton"
    assert made.trace["chosen"]["reason"] == "its card says production"
    assert "Serves production traffic." in fake.seen[0]["messages"][-1]["content"]
    assert "sk-secret" not in json.dumps(made.trace)
    assert (
        'modelium_decision_duration_seconds_count{author="llm",trigger="ingest"} 1.0'
        in advised.world.exposed()
    )


async def test_a_class_above_the_operators_ceiling_is_not_given(advised: Advised) -> None:
    await advised.played_by(lambda body: calls("decide", CHOICE))
    await advised.drop("tiny", priority_ceiling="medium")
    await advised.world.settled("tiny", "ready")
    (made,) = advised.world.store.decisions.newest(model="tiny")
    assert made.plan.author == "rules"
    assert made.plan.fallback.startswith("violations: priority: 'high' is not allowed")
    assert advised.world.store.model("tiny").priority is Priority.LOW
    assert 'modelium_decision_fallbacks_total{reason="violations"} 1.0' in advised.world.exposed()


async def test_a_run_whose_plan_was_handed_over_cannot_be_retried(world: World) -> None:
    """Prefect's Retry knows the recorded parameters alone: an unload must not become a load."""
    await world.load()
    with pytest.raises(InputError, match="part of another run"):
        await decide(world.services, model="tiny", trigger="operator", handed=True)
    assert world.runtime.loads == 1


async def test_a_decision_that_only_queues_is_finished(world: World) -> None:
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    await world.drop()
    await world.settled("tiny", "queued")
    await world.eventually(
        lambda: [d.outcome for d in world.store.decisions.newest(model="tiny")] == ["done"]
    )
