"""The brain with an LLM: it advises, the rules plan, the policy validates.

Where there is no valid advice, the rules decide alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from agents.llm.agent import Agent, NoAdvice
from agents.llm.choices import Choices, open_fields
from agents.llm.circuit_breaker import CircuitBreaker
from agents.llm.departing import departures, less
from agents.llm.ingest_choices import ingest_choices
from agents.llm.lookups import History, no_history
from agents.llm.review_choices import review_choices
from agents.llm.tools import Toolbox, ToolSource
from agents.llm.transcript import Transcript
from agents.rules.planner import RulePlanner
from modelium.lifecycle import ModelState
from modelium.models import (
    Action,
    DepartureKind,
    EvictionCause,
    Fleet,
    Plan,
    Trigger,
    Unload,
    Violation,
)
from modelium.models.advice import ADVISED, Advice
from modelium.policy import Policy, validate
from modelium.ports import Clock, Question

logger = logging.getLogger(__name__)

MAX_CONCURRENT = 4
"""Concurrent questions to the LLM: fifty new models at once must not overload it."""

OFFERED = 24
"""Values recorded per choice; no list that is offered is longer, but of placements."""


class AdvisedBrain:
    """`ports.Brain` of rules and an LLM. Not thread-safe: for one event loop."""

    def __init__(
        self,
        *,
        rules: RulePlanner,
        agent: Agent,
        clock: Clock,
        served_as: str | None = None,
        history: History = no_history,
        tools: Sequence[ToolSource] = (),
    ) -> None:
        """Send nothing to the endpoint yet.

        Args:
            rules: plans with and without advice.
            agent: asks the endpoint.
            clock: for the circuit breaker and the records.
            served_as: the LLM's name, where this Modelium serves it; it is asked only while that
                model is ready.
            history: earlier decisions, for the agent's tools.
            tools: build further tools of the agent.
        """
        self._rules = rules
        self._agent = agent
        self._clock = clock
        self._served_as = served_as
        self._history = history
        self._tools = tools
        self._breaker = CircuitBreaker(monotonic=clock.monotonic)
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        """Return the LLM's advice, or why there is none; ``None`` if it has nothing to choose."""
        if question.trigger not in ADVISED or not policy.enabled:
            return None
        try:
            return await self._advice(question, fleet, policy)
        except Exception as exc:
            # No failure of the advisor may fail a decision.
            logger.exception("asking the LLM failed; the rules decide alone")
            return Advice(fallback=f"internal-error: {type(exc).__name__}")

    async def _advice(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        choices = await asyncio.to_thread(self._choices, question, fleet, policy)
        if choices is None:
            return None
        if reason := self._unavailable_because(fleet):
            return Advice(fallback=reason)
        if self._slots.locked():
            return Advice(
                fallback=f"busy: {MAX_CONCURRENT} other questions are waiting for the LLM"
            )
        async with self._slots:
            return await self._ask(choices)

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        """Return a plan for ``fleet``; it follows ``advice`` where that is still valid."""
        if advice is None or advice.fallback:
            plan = await self._rules.decide(question, fleet, policy)
            return plan.model_copy(update={"fallback": advice.fallback if advice else ""})
        try:
            rules, plan, violations = await asyncio.to_thread(
                self._advised, question, fleet, policy, advice
            )
        except Exception as exc:
            logger.exception("planning with the advice failed; the rules decide alone")
            rules = await self._rules.decide(question, fleet, policy)
            return rules.model_copy(update={"fallback": f"internal-error: {type(exc).__name__}"})
        if violations:
            why = f"stale-advice: {violations[0].message}"
            return rules.model_copy(update={"fallback": why})
        by_llm = f" (LLM: {advice.reason})" if advice.reason else ""
        return plan.model_copy(
            update={
                "author": advice.author,
                "actions": _with_review_causes(plan, rules),
                "reason": plan.reason + by_llm,
                "preferences": advice.preferences,
            }
        )

    # --- inside ---------------------------------------------------------------------------

    def _choices(self, question: Question, fleet: Fleet, policy: Policy) -> Choices | None:
        rules = self._rules.plan(question, fleet, policy)
        found: Callable[..., Choices | None]
        found = ingest_choices if question.trigger is Trigger.INGEST else review_choices
        return found(
            question=question, fleet=fleet, policy=policy, rules=rules, planner=self._rules.plan
        )

    def _unavailable_because(self, fleet: Fleet) -> str:
        """Return why the endpoint cannot be asked now; empty where it can."""
        if self._served_as is not None:
            # A request to a model that is not loaded waits for its load, and so for a plan.
            model = fleet.models_by_name.get(self._served_as)
            if model is None or model.state is not ModelState.READY:
                state = model.state.value if model else "not registered"
                return f"not-loaded: the LLM is the model {self._served_as}, which is {state}"
        if left := self._breaker.seconds_until_allowed():
            return (
                f"circuit-open: calls to the endpoint failed in a row; the next is in {left:.0f} s"
            )
        return ""

    async def _ask(self, choices: Choices) -> Advice:
        transcript = Transcript(redacted=self._agent.endpoint.redacted)
        began = self._clock.monotonic()
        fallback, advice = "", Advice()
        try:
            advice = await self._agent.choose(
                choices,
                Toolbox(choices=choices, history=self._history, more=self._tools),
                lambda advice: self._objections(choices, advice),
                transcript,
            )
            self._breaker.on_success()
        except NoAdvice as exc:
            fallback = str(exc)
            if exc.endpoint_failed:
                self._breaker.on_failure()
            else:
                self._breaker.on_success()
            logger.info("the rules decide alone: %s", fallback)
        seconds = self._clock.monotonic() - began
        return advice.model_copy(
            update={
                "fallback": fallback,
                "trace": self._trace(choices, transcript, advice, fallback, seconds),
            }
        )

    def _trace(
        self,
        choices: Choices,
        transcript: Transcript,
        advice: Advice,
        fallback: str,
        seconds: float,
    ) -> dict[str, Any]:
        endpoint = self._agent.endpoint
        chosen = advice.model_dump(mode="json", exclude_defaults=True)
        return {
            "endpoint": endpoint.base_url,
            "model": endpoint.model,
            "seconds": round(seconds, 3),
            **transcript.record(),
            "offered": {f.name: list(f.allowed[:OFFERED]) for f in open_fields(choices)},
            "chosen": None if fallback else chosen,
            "fallback": fallback,
            "rules": [a.model_dump(mode="json") for a in choices.rules.actions],
        }

    def _objections(self, choices: Choices, advice: Advice) -> list[Violation]:
        _, _, violations = self._advised(
            choices.question, choices.fleet, choices.policy, advice, choices
        )
        return violations

    def _advised(
        self,
        question: Question,
        fleet: Fleet,
        policy: Policy,
        advice: Advice,
        choices: Choices | None = None,
    ) -> tuple[Plan, Plan, list[Violation]]:
        """Return the plan without and with ``advice``, and the violations of the latter.

        Departures of kinds that are not trusted are checked like others, and then only recorded:
        what is carried out is the plan without them.
        """
        choices = choices or self._choices(question, fleet, policy)
        if choices is None:
            stale = Violation(rule="stale", subject="answer", message="nothing is left to choose")
            return (
                self._rules.plan(question, fleet, policy),
                Plan(author="rules", trigger=question.trigger),
                [stale],
            )
        plan, violations = self._departed(choices, advice)
        shadows = tuple(d for d in plan.departures if d.shadow)
        if violations or not shadows:
            return choices.rules, plan, violations
        for kinds in ({d.kind for d in shadows}, frozenset(DepartureKind)):
            plan, violations = self._departed(choices, less(advice, kinds))
            if not violations and not any(d.shadow for d in plan.departures):
                break
        else:
            # What is left of the advice had leant on the shadows.
            plan = choices.rules
        return (
            choices.rules,
            plan.model_copy(update={"departures": (*plan.departures, *shadows)}),
            [],
        )

    def _departed(self, choices: Choices, advice: Advice) -> tuple[Plan, list[Violation]]:
        """Return the plan with ``advice``, its departures declared, and what is wrong with it."""
        fleet, policy = choices.fleet, choices.policy
        now = choices.question.now or fleet.at
        plan = self._rules.plan(choices.question, fleet, policy, advice)
        departing = departures(choices.rules, plan, advice, fleet=fleet, policy=policy, now=now)
        plan = plan.model_copy(update={"departures": departing})
        return plan, [
            *validate(plan, fleet, policy, now=now),
            *choices.objections(advice, plan),
        ]


def _with_review_causes(plan: Plan, rules: Plan) -> tuple[Action, ...]:
    """Return the actions of ``plan``; unloads that ``rules`` does not make are the review's."""
    by_rules = {a.model for a in rules.actions if isinstance(a, Unload)}
    return tuple(
        a.model_copy(update={"cause": EvictionCause.REVIEW})
        if isinstance(a, Unload) and a.model not in by_rules
        else a
        for a in plan.actions
    )
