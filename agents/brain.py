"""The chain: an LLM chooses, the rules plan with it, the policy checks; else the rules alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from agents.llm.agent import Agent, NoAdvice
from agents.llm.choices import Choices
from agents.llm.circuit_breaker import CircuitBreaker
from agents.llm.ingest_choices import ingest_choices
from agents.llm.review_choices import review_choices
from agents.llm.tools import History, Toolbox, no_history
from agents.llm.transcript import Transcript
from agents.rules.planner import RulePlanner
from modelium.lifecycle import ModelState
from modelium.models import Fleet, Plan, Trigger, Violation
from modelium.models.advice import ADVISED, Advice
from modelium.policy import Policy, validate
from modelium.ports import Clock, Question

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""Decisions that the LLM thinks over at a time: a drop of fifty models must not bury it."""


class AdvisedBrain:
    """`ports.Brain` of rules and an LLM. Used from one event loop."""

    def __init__(
        self,
        *,
        rules: RulePlanner,
        agent: Agent,
        clock: Clock,
        served_as: str | None = None,
        history: History = no_history,
    ) -> None:
        """Ask nobody yet.

        Args:
            rules: plans, with the advice and without.
            agent: talks to the endpoint.
            clock: for the circuit breaker and the records.
            served_as: the LLM's own name where it is one of the models that this Modelium
                serves: it is asked only while it is ready, and never for a decision of its own.
            history: earlier decisions.
        """
        self._rules = rules
        self._agent = agent
        self._clock = clock
        self._served_as = served_as
        self._history = history
        self._breaker = CircuitBreaker(monotonic=clock.monotonic)
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        """Have the LLM think ``question`` over, where it may choose anything."""
        if question.trigger not in ADVISED or not policy.enabled:
            return None
        try:
            return await self._advice(question, fleet, policy)
        except Exception as exc:
            # Whatever is wrong with advice, a decision never fails for it.
            logger.exception("the LLM could not be asked; the rules decide alone")
            return Advice(fallback=f"internal-error: {type(exc).__name__}")

    async def _advice(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        choices = await asyncio.to_thread(self._choices, question, fleet, policy)
        if choices is None:
            return None
        if reason := self._not_now(fleet):
            return Advice(fallback=reason)
        if self._turns.locked():
            return Advice(fallback=f"busy: it is thinking about {AT_ONCE} other decisions")
        async with self._turns:
            return await self._think(choices)

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        """Plan at once; with ``advice`` where it still holds on this ``fleet``."""
        if advice is None or advice.fallback:
            plan = await self._rules.decide(question, fleet, policy)
            return plan.model_copy(update={"fallback": advice.fallback if advice else ""})
        try:
            rules, plan, violations = await asyncio.to_thread(
                self._advised, question, fleet, policy, advice
            )
        except Exception as exc:
            logger.exception("advice could not be followed; the rules decide alone")
            rules = await self._rules.decide(question, fleet, policy)
            return rules.model_copy(update={"fallback": f"internal-error: {type(exc).__name__}"})
        if violations:
            why = f"stale-advice: {violations[0].message}"
            return rules.model_copy(update={"fallback": why})
        said = f" (advised: {advice.reason})" if advice.reason else ""
        return plan.model_copy(
            update={
                "author": advice.author,
                "reason": plan.reason + said,
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

    def _not_now(self, fleet: Fleet) -> str:
        """Why the endpoint is not to be asked; empty where it is."""
        if self._served_as is not None:
            # Asking for a model that is not loaded would wait for a load, and so for a plan.
            model = fleet.models_by_name.get(self._served_as)
            if model is None or model.state is not ModelState.READY:
                state = model.state.value if model else "not registered"
                return f"not-loaded: the brain's own model {self._served_as} is {state}"
        if left := self._breaker.seconds_until_allowed():
            return f"circuit-open: the endpoint failed in a row; asked again in {left:.0f} s"
        return ""

    async def _think(self, choices: Choices) -> Advice:
        transcript = Transcript(redacted=self._agent.endpoint.redacted)
        began = self._clock.monotonic()
        fallback, advice = "", Advice()
        try:
            advice = await self._agent.choose(
                choices,
                Toolbox(choices=choices, history=self._history),
                lambda wish: self._objections(choices, wish),
                transcript,
            )
            self._breaker.on_success()
        except NoAdvice as exc:
            fallback = str(exc)
            if exc.endpoint:
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
        wishes = advice.model_dump(mode="json", exclude_defaults=True)
        return {
            "endpoint": endpoint.base_url,
            "model": endpoint.model,
            "seconds": round(seconds, 3),
            **transcript.record(),
            "chosen": None if fallback else wishes,
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
        """The rules' plan without and with ``advice``, and what speaks against the latter."""
        choices = choices or self._choices(question, fleet, policy)
        if choices is None:
            gone = Violation(rule="stale", subject="answer", message="there is no choice any more")
            return (
                self._rules.plan(question, fleet, policy),
                Plan(author="rules", trigger=question.trigger),
                [gone],
            )
        plan = self._rules.plan(question, fleet, policy, advice)
        now = question.now or fleet.at
        violations = [*validate(plan, fleet, policy, now=now), *choices.objections(advice, plan)]
        return choices.rules, plan, violations
