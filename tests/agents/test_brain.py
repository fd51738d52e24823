"""The LLM's advice in decisions: where it is asked for, followed, and dropped."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Load,
    Priority,
    RuntimeName,
    Trigger,
)
from modelium.models.advice import Advice
from modelium.policy import validate
from modelium.ports import Question
from tests.agents.advising import (
    INGEST,
    Build,
    busy,
    good,
    newcomer,
    own,
    short_contexts,
)
from tests.fakes.fleets import NOW, fleet, loaded, model
from tests.fakes.llm import calls

pytestmark = pytest.mark.slow


async def test_good_advice_is_followed(house: Build) -> None:
    home = await house(good)
    plan, _advice = await home.answer(INGEST, fleet(newcomer()))
    load = own(plan)
    assert isinstance(load, Load)
    assert (load.runtime, load.settings.max_model_len) == (RuntimeName.VLLM, 16384)
    assert load.priority is Priority.MEDIUM
    assert load.reserve["n/g0"] == 10 * GIB + 16384 * (1 << 18)
    assert (plan.author, plan.fallback) == ("llm", "")
    assert "long reports" in plan.reason
    assert plan.preferences["new"].settings.max_model_len == 16384


async def test_an_internal_error_does_not_fail_the_decision(house: Build) -> None:
    def broken(model: str | None, limit: int) -> list[Any]:
        raise RuntimeError("the store is gone")

    home = await house(lambda body: calls("decisions"), history=broken)
    plan, _ = await home.answer(INGEST, fleet(newcomer()))
    assert plan.fallback == "internal-error: RuntimeError"
    assert isinstance(own(plan), Load)


@pytest.mark.parametrize("trigger", [Trigger.DEMAND, Trigger.OPERATOR, Trigger.SWEEP])
async def test_requests_operators_and_sweeps_do_not_wait_for_the_llm(
    house: Build, trigger: Trigger
) -> None:
    home = await house(good)
    subject = None if trigger is Trigger.SWEEP else "new"
    plan, advice = await home.answer(
        Question(trigger=trigger, model=subject, now=NOW), fleet(newcomer())
    )
    assert (plan.author, plan.fallback, advice) == ("rules", "", Advice())
    assert not home.endpoint.headers


async def test_an_llm_served_by_modelium_is_asked_only_while_it_is_ready(house: Build) -> None:
    home = await house(good, served_as="judge")
    away = model("judge", state=ModelState.UNLOADED)
    plan, _ = await home.answer(INGEST, fleet(newcomer(), away))
    assert plan.fallback.startswith("not-loaded: the LLM is the model judge, which is unloaded")
    plan, _ = await home.answer(INGEST, fleet(newcomer()))
    assert plan.fallback.startswith("not-loaded") and not home.endpoint.headers
    plan, _ = await home.answer(INGEST, fleet(newcomer(), loaded("judge", "n/g1")))
    assert plan.author == "llm"


async def test_the_llm_is_not_asked_without_a_choice(house: Build) -> None:
    home = await house(good)
    files = newcomer().profile
    assert files is not None
    code = newcomer().model_copy(
        update={"profile": files.model_copy(update={"needs_remote_code": True})}
    )
    plan, advice = await home.answer(INGEST, fleet(code))
    assert own(plan).action == "reject" and plan.fallback == "" and advice == Advice()
    assert not home.endpoint.headers


async def test_advice_is_dropped_when_the_fleet_has_changed(house: Build) -> None:
    home = await house(good)
    rules = short_contexts()
    advice = await home.brain.advise(INGEST, fleet(newcomer()), rules)
    taken = [loaded(f"m{i}", f"n/g{i}", gib=61, traffic=busy()) for i in range(2)]
    later = fleet(newcomer(), *taken)
    plan = await home.brain.decide(INGEST, later, rules, advice)
    assert plan.fallback.startswith("stale-advice")
    assert validate(plan, later, rules, now=NOW) == []
