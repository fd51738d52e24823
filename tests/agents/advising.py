"""A brain with a scripted LLM behind a real HTTP endpoint, and fleets to ask it about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents.brain import AdvisedBrain
from agents.rules.planner import RulePlanner
from modelium.lifecycle import ModelState
from modelium.models import (
    Fleet,
    Model,
    Plan,
    RuntimeName,
    Trigger,
    Untrusted,
)
from modelium.models.advice import Advice
from modelium.policy import Policy, RuntimeRules, validate
from modelium.ports import Question
from tests.fakes.fleets import NOW, estimate, loaded, model, policy, profile
from tests.fakes.llm import Body, Endpoint, calls

RULES = RulePlanner(estimate=estimate)
KEY = "sk-very-secret-42"
INGEST = Question(trigger=Trigger.INGEST, model="new", now=NOW)
REVIEW = Question(trigger=Trigger.REVIEW, now=NOW)


class House:
    """An endpoint and a brain that asks it."""

    def __init__(self, endpoint: Endpoint, brain: AdvisedBrain) -> None:
        self.endpoint = endpoint
        self.brain = brain

    async def answer(
        self, question: Question, known: Fleet, rules: Policy | None = None
    ) -> tuple[Plan, Advice]:
        """Return the plan and the advice; the policy accepts every plan."""
        given = rules or short_contexts()
        advice = await self.brain.advise(question, known, given)
        plan = await self.brain.decide(question, known, given, advice)
        assert validate(plan, known, given, now=question.now) == []
        return plan, advice or Advice()


Build = Callable[..., Any]


def short_contexts(**given: Any) -> Policy:
    """vLLM's default context is 2,048, as in the seed's example."""
    vllm = RuntimeRules(default_settings={"max_model_len": 2048, "dtype": "float16"})
    return policy(runtimes={RuntimeName.VLLM: vllm, RuntimeName.RAY_SERVE: RuntimeRules()}, **given)


def newcomer(card: str = "Summarises long reports.", **given: Any) -> Model:
    files = profile(
        10,
        context_length=32768,
        kv_bytes_per_token=1 << 18,
        dtype="bfloat16",
        card=Untrusted(text=card),
        tensor_parallel_degrees=(1, 2),
    )
    return model("new", profile=files, **given)


def waiting(name: str, gib: float, card: str = "", **given: Any) -> Model:
    return model(
        name,
        state=ModelState.QUEUED,
        profile=profile(gib, card=Untrusted(text=card)),
        **{"queued_at": NOW - 60, **given},
    )


def own(plan: Plan) -> Any:
    return next(a for a in plan.actions if a.model == "new")


def good(body: Body) -> dict[str, Any]:
    """Looks at the card first, then decides."""
    if not any(m["role"] == "tool" for m in body["messages"]):
        return {"calls": [("card", {"model": "new"}), ("traffic", {}), ("fleet", {})]}
    return calls(
        "decide",
        {"reason": "long reports", "runtime": "vllm", "max_model_len": 16384, "priority": "medium"},
    )


def said(body: Body) -> str:
    return str(body["messages"][-1]["content"])


def busy() -> Any:
    return loaded("x", "n/g0").traffic.model_copy(update={"in_flight": 1})
