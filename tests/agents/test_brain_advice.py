"""What becomes of advice, and what is recorded of how it was made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from agents.brain import MAX_CONCURRENT, AdvisedBrain
from agents.llm.agent import Agent, Budget
from agents.llm.endpoint import Endpoint as Client
from agents.replay.simulated_fleet import SimulatedClock
from agents.rules.planner import RulePlanner
from modelium.models import (
    EvictionCause,
    Fleet,
    Footprint,
    LoadSettings,
    Plan,
    Preference,
    Priority,
    Trigger,
)
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Question
from tests.agents.advising import INGEST, KEY, REVIEW, RULES, newcomer, short_contexts, waiting
from tests.agents.rules.asking import traffic
from tests.fakes.fleets import NOW, estimate, fleet, loaded
from tests.fakes.llm import Answer, Body, Endpoint, Player, calls, endpoint, says

pytestmark = pytest.mark.slow

Ask = Callable[..., Any]
BRIEF = {"reason": "long reports", "max_model_len": 16384, "priority": "medium"}
DOWN = Answer(status=503)


class Advisor:
    """A brain under a simulated clock, and the endpoint that it asks."""

    def __init__(self, fake: Endpoint, **given: Any) -> None:
        self.clock = SimulatedClock()
        self.endpoint = fake
        agent = Agent(
            endpoint=Client(base_url=fake.base_url, model="judge", api_key=KEY),
            clock=self.clock,
            budget=Budget(seconds=120.0, rounds=4, tokens=50_000),
        )
        self.brain = AdvisedBrain(**{"rules": RULES, "agent": agent, "clock": self.clock, **given})

    async def ask(self, by: Policy | None = None) -> Advice | None:
        return await self.brain.advise(INGEST, fleet(newcomer()), by or short_contexts())


@pytest.fixture
async def advisor() -> AsyncIterator[Ask]:
    async with AsyncExitStack() as stack:

        async def build(player: Player, **given: Any) -> Advisor:
            return Advisor(await stack.enter_async_context(endpoint(player)), **given)

        yield build


async def test_a_service_that_only_observes_asks_nobody(advisor: Ask) -> None:
    home = await advisor(lambda _: calls("decide", BRIEF))
    assert await home.ask(short_contexts(enabled=False)) is None
    assert not home.endpoint.headers


async def test_the_record_of_an_answer_says_who_gave_it_and_what_the_rules_would_do(
    advisor: Ask,
) -> None:
    def plays(_: Body) -> dict[str, Any]:
        home.clock.now += 2.5006
        return calls("decide", BRIEF)

    home = await advisor(plays)
    advice = await home.ask()
    preference = Preference(settings=LoadSettings(max_model_len=16384))
    expected = Advice(
        priorities={"new": Priority.MEDIUM},
        preferences={"new": preference},
        reason="long reports",
        trace=advice.trace,
    )
    assert advice == expected
    trace = dict(advice.trace)
    rules = RULES.plan(INGEST, fleet(newcomer()), short_contexts())
    assert trace.pop("messages") and trace.pop("replies")
    assert trace.pop("prompt_tokens") > 0 < trace.pop("completion_tokens")
    assert trace == {
        "endpoint": home.endpoint.base_url,
        "model": "judge",
        "seconds": 2.501,
        "violations": [],
        "offered": {
            "runtime": ["vllm", "ray_serve"],
            "max_model_len": [2048, 4096, 8192, 16384, 32768],
            "tensor_parallel_size": [1, 2],
            "dtype": ["float16", "auto"],
            "priority": ["high", "medium", "low"],
        },
        "chosen": {
            "priorities": {"new": "medium"},
            "preferences": {"new": {"settings": {"max_model_len": 16384}}},
            "reason": "long reports",
        },
        "fallback": "",
        "rules": [action.model_dump(mode="json") for action in rules.actions],
    }


async def test_the_record_of_a_failure_has_its_reason_and_no_choice(advisor: Ask) -> None:
    home = await advisor(lambda _: DOWN)
    advice = await home.ask()
    assert advice.fallback.startswith("endpoint-error: ")
    assert advice == Advice(fallback=advice.fallback, trace=advice.trace)
    assert (advice.trace["fallback"], advice.trace["chosen"]) == (advice.fallback, None)


async def test_an_endpoint_that_failed_three_times_rests_for_a_minute(advisor: Ask) -> None:
    home = await advisor(lambda _: DOWN)
    for _ in range(3):
        assert (await home.ask()).fallback.startswith("endpoint-error: ")
    home.clock.now += 19.6
    expected = "circuit-open: calls to the endpoint failed in a row; the next is in 40 s"
    assert await home.ask() == Advice(fallback=expected)
    home.clock.now += 41
    assert (await home.ask()).fallback.startswith("endpoint-error: ")


@pytest.mark.parametrize("said", [calls("decide", BRIEF), says("no JSON at all")])
async def test_an_endpoint_that_answers_whatever_it_says_has_not_failed(
    advisor: Ask, said: dict[str, Any]
) -> None:
    home = await advisor(lambda _: answer)
    kinds = []
    for answer in (DOWN, DOWN, said, DOWN, DOWN, said):  # noqa: B007 - the endpoint's
        kinds.append((await home.ask()).fallback.partition(":")[0])
    assert kinds[:2] == kinds[3:5] == ["endpoint-error"] * 2
    assert kinds[2] == kinds[5] not in ("endpoint-error", "circuit-open")


async def test_a_fifth_question_at_once_is_answered_by_the_rules(advisor: Ask) -> None:
    all_asked = asyncio.Event()

    def plays(_: Body) -> Answer:
        if len(home.endpoint.seen) == MAX_CONCURRENT:
            all_asked.set()
        return Answer(after_s=600.0)

    home = await advisor(plays)
    asking = [asyncio.create_task(home.ask()) for _ in range(MAX_CONCURRENT)]
    await all_asked.wait()
    busy = "busy: 4 other questions are waiting for the LLM"
    assert await home.ask() == Advice(fallback=busy)
    assert len(home.endpoint.seen) == MAX_CONCURRENT
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_an_llm_that_is_not_registered_or_loaded_is_not_asked(advisor: Ask) -> None:
    home = await advisor(lambda _: calls("decide", BRIEF), served_as="judge")
    unknown = "not-loaded: the LLM is the model judge, which is not registered"
    assert await home.ask() == Advice(fallback=unknown)
    world = fleet(newcomer(), loaded("judge", "n/g1", traffic=traffic(1, 1.0)))
    advice = await home.brain.advise(INGEST, world, short_contexts())
    assert advice.fallback == ""


# --- plans with advice that was given before -----------------------------------------------

UNASKED: Any = None
"""Plans with given advice ask no endpoint."""


def deciding(rules: RulePlanner = RULES) -> AdvisedBrain:
    return AdvisedBrain(rules=rules, agent=UNASKED, clock=SimulatedClock())


LONG = Advice(
    preferences={"new": Preference(settings=LoadSettings(max_model_len=16384))}, reason="why not"
)


async def decided(
    advice: Advice | None, world: Fleet | None = None, question: Question = INGEST, **given: Any
) -> tuple[Plan, Plan]:
    """Return the plan with the advice and that of the rules alone."""
    world, by = world or fleet(newcomer()), short_contexts()
    plan = await deciding(**given).decide(question, world, by, advice)
    return plan, RULES.plan(question, world, by)


async def test_without_advice_the_rules_decide() -> None:
    plan, rules = await decided(None)
    assert plan == rules
    plan, rules = await decided(Advice(fallback="busy: so many"))
    assert plan == rules.model_copy(update={"fallback": "busy: so many"})


async def test_a_plan_with_advice_names_its_author_its_reason_and_what_it_prefers() -> None:
    plan, rules = await decided(LONG)
    (load,) = plan.loads
    assert load.settings.max_model_len == 16384
    assert plan.reason == f"new: {load.reason} (LLM: why not)"
    assert (plan.author, plan.fallback, plan.preferences) == ("llm", "", LONG.preferences)
    assert (plan.subject, plan.trigger, plan.revision) == ("new", Trigger.INGEST, 7)
    silent, _ = await decided(LONG.model_copy(update={"reason": "", "author": "someone"}))
    assert (silent.reason, silent.author) == (f"new: {load.reason}", "someone")
    assert rules.loads[0].settings.max_model_len == 2048


async def test_advice_with_nothing_left_to_choose_is_stale() -> None:
    plan, rules = await decided(LONG, fleet(loaded("new", "n/g0", profile=newcomer().profile)))
    assert plan == rules.model_copy(update={"fallback": "stale-advice: nothing is left to choose"})
    assert [action.action for action in plan.actions] == ["keep"]


async def test_advice_that_no_longer_fits_is_stale() -> None:
    full = [loaded(f"x{i}", f"n/g{i}", gib=60, traffic=traffic(1, 1.0)) for i in range(2)]
    plan, rules = await decided(LONG, fleet(newcomer(), *full))
    assert plan.fallback.startswith("stale-advice: new: ")
    assert plan.model_copy(update={"fallback": ""}) == rules


async def test_a_plan_that_fails_with_the_advice_is_made_by_the_rules() -> None:
    def fragile(*given: Any, **asked: Any) -> Footprint:
        if asked["max_model_len"] == 16384:
            raise ValueError("16384")
        return estimate(*given, **asked)

    plan, rules = await decided(LONG, rules=RulePlanner(estimate=fragile))
    assert plan == rules.model_copy(update={"fallback": "internal-error: ValueError"})


@pytest.mark.parametrize("now", [NOW, 0.0])
async def test_unloads_that_the_rules_would_not_make_are_the_reviews(now: float) -> None:
    held = [
        loaded("one", "n/g0", gib=60, traffic=traffic(600, 0.0011)),
        loaded("two", "n/g1", gib=60, traffic=traffic(600, 0.0010)),
        loaded("idle", "n/g0", gib=10, idle_s=9000),
    ]
    world = fleet(waiting("old", 60, queued_at=NOW - 2000), *held, waiting("next", 70))
    question = REVIEW if now else Question(trigger=Trigger.REVIEW)
    advice = Advice(keep=("two",), evict=("one",))
    plan, rules = await decided(advice, world, question)
    causes = {u.model: u.cause for u in plan.unloads}
    assert {u.model: u.cause for u in rules.unloads} == {
        "idle": EvictionCause.IDLE,
        "two": EvictionCause.SPACE,
    }
    assert causes == {"idle": EvictionCause.IDLE, "one": EvictionCause.REVIEW}
    assert [a.action for a in plan.actions] == [a.action for a in rules.actions]
