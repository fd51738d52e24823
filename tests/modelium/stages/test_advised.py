"""An LLM's part in a drop's life: asked at ingest and in the review, kept, shown, asked again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from agents.brain import AdvisedBrain
from agents.llm.agent import Agent, Budget
from agents.llm.endpoint import Endpoint as Client
from agents.rules.planner import RulePlanner
from modelium.config import BrainSection, Triton
from modelium.control.loop import Loop
from modelium.control.operations import Operations
from modelium.errors import FailureKind, InputError, LoadFailed
from modelium.models import Priority, RuntimeName, Trigger
from modelium.stages.decide import decide
from modelium.stages.evict import evict
from modelium.stages.ingest import ingest
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.services import provide
from tests.fakes.llm import Answer, Endpoint, Player, calls, endpoint
from tests.fakes.runtime import MemoryRuntime
from tests.modelium.conftest import World
from tests.samples import tiny_onnx

CHOICE = {"reason": "its card says production", "runtime": "ray_serve", "priority": "high"}


class Advised:
    """A world whose brain asks a scripted endpoint."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self.world = world
        self._stack = stack

    async def played_by(self, player: Player, *, triton: bool = False) -> Endpoint:
        """``triton``: a second runtime that could serve the drop, and is the rules' choice."""
        fake = await self._stack.enter_async_context(endpoint(player))
        services = self.world.services
        if triton:
            other = MemoryRuntime()
            other.name = RuntimeName.TRITON
            config = services.config.model_copy(update={"triton": Triton(enabled=True)})
            runtimes = {**services.runtimes, other.name: other}
            runtime_monitor = RuntimeMonitor(runtimes=runtimes, policy=config.policy())
            services = replace(
                services,
                config=config,
                policy=config.policy(),
                runtimes=runtimes,
                runtime_monitor=runtime_monitor,
            )
            await runtime_monitor.observe({})
        store = services.store.blocking
        brain = AdvisedBrain(
            rules=RulePlanner(),
            agent=Agent(
                endpoint=Client(base_url=fake.base_url, model="judge", api_key="sk-secret"),
                clock=services.clock,
                budget=Budget(seconds=20, rounds=4, tokens=20_000),
            ),
            clock=services.clock,
            history=lambda model, limit: store.decisions.newest(model=model, limit=limit),
        )
        section = BrainSection(base_url=fake.base_url, model="judge", review_interval_seconds=0.001)
        config = services.config.model_copy(update={"brain": section})
        self.world.services = replace(services, brain=brain, config=config)
        provide(self.world.services)
        return fake

    async def drop(self, name: str, **given: Any) -> None:
        folder = self.world.incoming / name
        tiny_onnx(folder)
        (folder / "README.md").write_text("Serves production traffic.")
        await ingest(self.world.services, path=str(folder), **given)


@pytest.fixture
async def advised(world: World) -> AsyncIterator[Advised]:
    async with AsyncExitStack() as stack:
        yield Advised(world, stack)


async def test_a_drop_is_decided_with_the_llm_and_all_of_it_is_kept(advised: Advised) -> None:
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
    assert advised.world.services.telemetry.render().count(  # type: ignore[attr-defined]
        b'modelium_decision_duration_seconds_count{author="llm",trigger="ingest"} 1.0'
    )


async def test_a_class_above_the_operators_ceiling_is_not_given(advised: Advised) -> None:
    await advised.played_by(lambda body: calls("decide", CHOICE))
    await advised.drop("tiny", priority_ceiling="medium")
    await advised.world.settled("tiny", "ready")
    (made,) = advised.world.store.decisions.newest(model="tiny")
    assert made.plan.author == "rules"
    assert made.plan.fallback.startswith("violations: priority: 'high' is not allowed")
    assert advised.world.store.model("tiny").priority is Priority.LOW
    assert b'modelium_decision_fallbacks_total{reason="violations"} 1.0' in (
        advised.world.services.telemetry.render()  # type: ignore[attr-defined]
    )


async def test_a_preference_is_forgotten_once_a_load_with_it_failed(advised: Advised) -> None:
    advised.world.runtime.failure = LoadFailed("no", kind=FailureKind.UNSUPPORTED)
    await advised.played_by(lambda body: calls("decide", CHOICE), triton=True)
    await advised.drop("tiny")
    await advised.world.settled("tiny", "failed")
    (made,) = advised.world.store.decisions.newest(model="tiny")
    assert made.plan.preferences["tiny"].runtime is RuntimeName.RAY_SERVE
    assert advised.world.store.model("tiny").preference is None


async def test_a_decision_is_asked_again_on_the_facts_of_then(advised: Advised) -> None:
    fake = await advised.played_by(lambda body: calls("decide", CHOICE))
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    fake.player = lambda body: calls("decide", {**CHOICE, "priority": "medium"})
    operations = Operations(services=advised.world.services)
    (made,) = await operations.decisions(advised=True)
    again = await operations.rethink(made.id)
    assert again.decision == made
    (load,) = again.plan.actions
    assert load.action == "load" and load.priority is Priority.MEDIUM
    assert fake.seen[1]["messages"][:1] == fake.seen[0]["messages"][:1]
    assert len(await operations.decisions()) == 1, "asking again decides nothing"
    assert advised.world.store.model("tiny").priority is Priority.HIGH


async def test_what_no_llm_was_asked_for_cannot_be_asked_again(advised: Advised) -> None:
    await advised.played_by(lambda body: Answer(status=500))
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    await evict(advised.world.services, models=["tiny"])
    operations = Operations(services=advised.world.services)
    by_operator = (await operations.decisions())[0]
    with pytest.raises(InputError, match="has no stored snapshot"):
        await operations.rethink(by_operator.id)


async def test_the_review_comes_by_itself_and_waits_for_nobody(advised: Advised) -> None:
    fake = await advised.played_by(lambda body: calls("decide", {"prewarm": ["tiny"]}))
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    await evict(advised.world.services, models=["tiny"])
    before = len(fake.seen)
    services = advised.world.services
    policy = services.policy.model_copy(update={"reload_cooldown_s": 0.0})
    advised.world.services = replace(services, policy=policy)
    provide(advised.world.services)
    loop = Loop(services=advised.world.services, signals=advised.world.signals)
    await services.clock.sleep(0.01)
    await loop.tick()
    await advised.world.settled("tiny", "ready")
    assert len(fake.seen) > before
    made = advised.world.store.decisions.newest(model="tiny")[0]
    assert (made.plan.author, made.plan.trigger) == ("llm", Trigger.REVIEW)


async def test_a_review_that_changes_nothing_is_kept_all_the_same(advised: Advised) -> None:
    await advised.played_by(lambda body: calls("decide", {"prewarm": []}))
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    await evict(advised.world.services, models=["tiny"])
    services = advised.world.services
    policy = services.policy.model_copy(update={"reload_cooldown_s": 0.0})
    await decide(replace(services, policy=policy), trigger="review")
    made = advised.world.store.decisions.newest(advised=True)[0]
    assert (made.plan.trigger, made.plan.actions) == (Trigger.REVIEW, ())
    assert made.trace["messages"]
