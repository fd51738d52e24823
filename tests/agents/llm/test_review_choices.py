from __future__ import annotations

from typing import Any

from modelium.lifecycle import ModelState
from modelium.models import (
    EvictionCause,
    Load,
    Priority,
    Unload,
)
from modelium.models.advice import Advice
from tests.agents.advising import (
    REVIEW,
    RULES,
    Build,
    good,
    waiting,
)
from tests.fakes.fleets import NOW, fleet, loaded, model, policy
from tests.fakes.llm import Body, calls


async def test_queued_models_load_in_the_advised_order_within_a_class(house: Build) -> None:
    def plays(body: Body) -> dict[str, Any]:
        return calls("decide", {"reason": "", "order": ["b", "a", "vip"]})

    known = fleet(
        waiting("a", 50), waiting("b", 50), waiting("vip", 50, priority=Priority.HIGH), gpus=2
    )
    home = await house(plays)
    plan, _ = await home.answer(REVIEW, known)
    assert [a.model for a in plan.actions if isinstance(a, Load)] == ["vip", "b"]
    assert [a.model for a in RULES.plan(REVIEW, known, policy()).actions] == ["vip", "a"]


async def test_prewarming_uses_only_free_memory(house: Build) -> None:
    known = fleet(
        model("nine", 10, state=ModelState.UNLOADED),
        model("huge", 200, state=ModelState.UNLOADED),
        loaded("idle", "n/g0", gib=60),
        gpus=1,
    )
    home = await house(lambda body: calls("decide", {"prewarm": ["nine"]}))
    plan, _ = await home.answer(REVIEW, known)
    assert [a.model for a in plan.actions] == ["nine"]
    home = await house(lambda body: calls("decide", {"prewarm": ["huge"]}))
    plan, _ = await home.answer(REVIEW, known)
    assert plan.fallback.startswith("violations: prewarm: 'huge' is not allowed")


async def test_advice_decides_ties_and_the_rules_the_rest(house: Build) -> None:
    def used(rate: float) -> Any:
        return loaded("x", "n/g0").traffic.model_copy(update={"rates": (rate,) * 4})

    old = waiting("old", 60, queued_at=NOW - 2000)
    home = await house(lambda body: calls("decide", {"keep": ["one"], "order": ["old", "next"]}))
    for rate, leaves in ((0.0010, "two"), (0.0001, "one")):
        known = fleet(
            loaded("one", "n/g0", gib=60, traffic=used(rate)),
            loaded("two", "n/g1", gib=60, traffic=used(0.0011)),
            old,
            waiting("next", 70),
        )
        plan, _ = await home.answer(REVIEW, known)
        assert plan.fallback == ""
        unloads = {a.model: a.cause for a in plan.actions if isinstance(a, Unload)}
        cause = EvictionCause.REVIEW if leaves == "two" else EvictionCause.SPACE
        assert unloads == {leaves: cause}


async def test_a_review_without_choices_does_not_ask(house: Build) -> None:
    home = await house(good)
    _plan, advice = await home.answer(REVIEW, fleet(loaded("a", "n/g0")))
    assert advice == Advice() and not home.endpoint.headers
