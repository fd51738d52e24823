"""The rule planner: decides alone, or within an LLM's advice, fast enough for a request's path.

`RulePlanner.plan` is pure: it takes a snapshot and a policy and returns a plan. docs/planner.md
states the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agents.rules.device_memory import DeviceMemory
from agents.rules.keep_value import keep_value
from agents.rules.plan_builder import PlanBuilder
from agents.rules.single_model import plan_single_model
from agents.rules.sizing import Estimate, Sizer
from agents.rules.sweep import plan_sweep
from modelium import analysis
from modelium.models import Fleet, Model, Plan
from modelium.models.advice import RULES_ALONE, Advice, advised
from modelium.policy import Policy
from modelium.ports import Question

TIE = 1.25
"""Values that differ by less than this factor count as equal, so that advice may decide: the
estimate of a value is no more precise."""

Offload = Callable[[Question, Fleet, Policy, Advice], Awaitable[Plan | None]]
"""Plans in another process; ``None`` where the caller has to plan."""


class RulePlanner:
    """`ports.Brain` by rules alone."""

    def __init__(
        self, *, estimate: Estimate = analysis.estimate, offload: Offload | None = None
    ) -> None:
        """Take the estimator and, where there is one, the planner subprocess.

        Args:
            estimate: memory that one device needs; default `modelium.analysis.estimate`.
            offload: plans for the whole fleet, if it can; it uses the default estimate.
        """
        self._sizer = Sizer(estimate=estimate)
        self._offload = offload

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        """Return no advice."""
        return None

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        """Return what `plan` returns, without blocking the event loop."""
        given = question, fleet, policy, advice or RULES_ALONE
        if self._offload is not None and question.model is None:
            plan = await self._offload(*given)
            if plan is not None:
                return plan
        return await asyncio.to_thread(self.plan, *given)

    def plan(
        self,
        question: Question,
        fleet: Fleet,
        policy: Policy,
        advice: Advice = RULES_ALONE,
    ) -> Plan:
        """Return the plan that answers ``question``; `modelium.policy.validate` accepts it.

        Never raises for a model that it cannot place. ``advice`` decides where the rules have no
        strong preference; the plan is valid whatever it says.
        """
        now = question.now or fleet.at
        fleet = advised(fleet, advice)
        factors = dict.fromkeys(advice.keep, TIE) | dict.fromkeys(advice.evict, 1 / TIE)

        def value(model: Model) -> float:
            return keep_value(model, now=now) * factors.get(model.name, 1.0)

        builder = PlanBuilder(
            question=question,
            fleet=fleet,
            policy=policy,
            now=now,
            memory=DeviceMemory(fleet=fleet, policy=policy, now=now, value=value),
            sizer=self._sizer,
            advice=advice,
        )
        if question.model is not None:
            plan_single_model(builder, question.model)
        else:
            plan_sweep(builder)
        return builder.plan()
