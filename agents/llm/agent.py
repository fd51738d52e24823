"""The agent: an LLM with read-only tools that ends in one checked choice, within budgets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage

from agents.llm import prompt
from agents.llm.choices import Choices, read, schema
from agents.llm.endpoint import Capabilities, Endpoint, EndpointError, Reply
from agents.llm.tools import Toolbox
from agents.llm.transcript import Transcript
from modelium.models import Violation
from modelium.models.advice import Advice
from modelium.ports import Clock

REPLY_TOKENS = 2000
"""Longest reply: a reason and the longest lists take 300, the rest is for one that thinks aloud."""

CALLS_PER_ROUND = 8
"""Tool calls of one reply that are answered: there are seven tools."""

DECIDE = "decide"

Check = Callable[[Advice], list[Violation]]
"""What is wrong with the plan that an advice leads to. Blocks; called off the event loop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Bounds of one decision."""

    seconds: float
    rounds: int
    """Replies that only look things up."""
    tokens: int
    """Of all prompts and replies."""


class NoAdvice(Exception):
    """The rules are to answer; ``str()`` is a slug, then ``: `` and the detail."""

    def __init__(self, slug: str, detail: str, *, endpoint: bool = False) -> None:
        """``endpoint``: it failed itself, which the circuit breaker counts."""
        super().__init__(f"{slug}: {detail}")
        self.endpoint = endpoint


class Agent:
    """Asks one endpoint. Stateless between decisions; safe to use concurrently."""

    def __init__(self, *, endpoint: Endpoint, clock: Clock, budget: Budget) -> None:
        """``budget`` holds for each decision."""
        self.endpoint = endpoint
        self._clock = clock
        self._budget = budget

    async def choose(
        self, choices: Choices, toolbox: Toolbox, check: Check, transcript: Transcript
    ) -> Advice:
        """Have the LLM choose; shows it once what was wrong with its answer.

        Args:
            choices: what may be chosen.
            toolbox: what it may look up.
            check: holds the plan that comes of it against the policy.
            transcript: filled as it goes, whatever the outcome.

        Raises:
            NoAdvice: no answer, none in time, or none that holds.
        """
        try:
            async with asyncio.timeout(self._budget.seconds):
                return await self._choose(choices, toolbox, check, transcript)
        except TimeoutError:
            raise NoAdvice(
                "timeout", f"no answer within {self._budget.seconds:g} s", endpoint=True
            ) from None
        except EndpointError as exc:
            raise NoAdvice("endpoint-error", str(exc), endpoint=True) from exc

    async def _choose(
        self, choices: Choices, toolbox: Toolbox, check: Check, transcript: Transcript
    ) -> Advice:
        able = await self.endpoint.capabilities()
        transcript.add(SystemMessage(prompt.SYSTEM))
        asked = prompt.question(choices, tools=able.tools, schema_kept=able.schema)
        transcript.add(HumanMessage(asked))
        answer = await self._answer(choices, toolbox, able, transcript, looking=able.tools)
        advice, violations = await self._judge(answer, choices, check)
        if violations:
            transcript.faulted(violations)
            transcript.add(HumanMessage(prompt.repair(violations)))
            answer = await self._answer(choices, toolbox, able, transcript, looking=False)
            advice, violations = await self._judge(answer, choices, check)
        if violations or advice is None:
            transcript.faulted(violations)
            unread = any(v.rule == "answer" for v in violations)
            raise NoAdvice(
                "invalid-answer" if unread else "violations",
                "; ".join(v.message for v in violations[:3]),
            )
        return advice

    async def _judge(
        self, answer: Any, choices: Choices, check: Check
    ) -> tuple[Advice | None, list[Violation]]:
        reading = read(answer, choices)
        if reading.violations:
            return None, reading.violations
        advice = choices.advice(reading.chosen)
        return advice, await asyncio.to_thread(check, advice)

    async def _answer(
        self,
        choices: Choices,
        toolbox: Toolbox,
        able: Capabilities,
        transcript: Transcript,
        *,
        looking: bool,
    ) -> Any:
        """Return the decided document, as parsed; ``None`` where there is no reading it."""
        rounds = 0
        while looking:
            tools = [*toolbox.specifications(), prompt.decide_tool(choices)]
            reply = await self._ask(transcript, "tools", tools=tools)
            if _decides(reply) or not reply.calls:
                # Whoever answers without a call has said all; if it is no JSON, ask for it.
                found = _read_off(reply, transcript)
                if found is not None:
                    return found
                transcript.add(HumanMessage(prompt.USE_JSON))
                break
            rounds += 1
            if rounds > self._budget.rounds:
                raise NoAdvice(
                    "steps", f"still looking things up after {self._budget.rounds} rounds"
                )
            await self._look_up(reply, toolbox, transcript)
            if rounds == self._budget.rounds:
                transcript.add(HumanMessage(prompt.LAST_ROUND))
        if able.schema:
            reply = await self._ask(transcript, "schema", schema=schema(choices))
        elif able.tools:
            tools = [prompt.decide_tool(choices)]
            reply = await self._ask(transcript, "tools", tools=tools, force=DECIDE)
        else:
            reply = await self._ask(transcript, "text")
        return _read_off(reply, transcript)

    async def _ask(self, transcript: Transcript, mode: str, **options: Any) -> Reply:
        left = self._budget.tokens - transcript.tokens
        if left <= 0:
            raise NoAdvice("tokens", f"more than {self._budget.tokens} tokens were spent")
        began = self._clock.monotonic()
        reply = await self.endpoint.ask(
            transcript.messages, max_tokens=min(REPLY_TOKENS, left), **options
        )
        transcript.replied(reply, seconds=self._clock.monotonic() - began, mode=mode)
        return reply

    async def _look_up(self, reply: Reply, toolbox: Toolbox, transcript: Transcript) -> None:
        """Answer each call: an endpoint refuses a conversation in which one has no answer."""
        for place, call in enumerate(reply.calls):
            if place >= CALLS_PER_ROUND:
                answer = f"error: only {CALLS_PER_ROUND} calls at once are answered"
            elif call.arguments is None:
                answer = f"error: the arguments are no JSON object: {call.raw}"
            else:
                answer = await asyncio.to_thread(toolbox.call, call.name, call.arguments)
            transcript.add(ToolMessage(answer, tool_call_id=call.id, name=call.name))


def _decides(reply: Reply) -> bool:
    return any(call.name == DECIDE for call in reply.calls)


def _read_off(reply: Reply, transcript: Transcript) -> Any:
    """Return what ``reply`` decides, in whichever form it came; ``None``: there is no reading it.

    Each of its calls gets the answer that the protocol asks for, should the conversation go on.
    """
    for call in reply.calls:
        transcript.add(ToolMessage("taken down", tool_call_id=call.id, name=call.name))
    for call in reply.calls:
        if call.name == DECIDE:
            return _document(call.raw) if call.arguments is None else dict(call.arguments)
    return _document(reply.text)


def _document(text: str) -> Any:
    """The first JSON object in ``text``: models wrap it in prose and in Markdown fences."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            return decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            if start > 2000:
                return None
    return None
