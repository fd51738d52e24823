"""The agent: an LLM with read-only tools whose answer is one checked choice, within budgets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage

from agents.llm import prompt
from agents.llm.capabilities import Capabilities
from agents.llm.choices import Choices, parse_answer, schema
from agents.llm.endpoint import Endpoint, EndpointError, Reply
from agents.llm.tools import Toolbox
from agents.llm.transcript import Transcript
from modelium.models import Violation
from modelium.models.advice import Advice
from modelium.ports import Clock

REPLY_TOKENS = 2000
"""Longest reply: a reason and the longest lists take 300; models that reason first take more."""

SHORT_REPLY_TOKENS = 400
"""Longest reply where the context has no room for more: vLLM before 0.32 counts the longest reply,
whatever its length becomes, and refuses a conversation that leaves less room."""

CALLS_PER_ROUND = 8
"""Tool calls answered per reply: there are nine tools."""

DECIDE = "decide"

REPEATED = "answered above; nothing has changed since"

CUT = "the answer was cut off at its longest length; give a shorter one"

Check = Callable[[Advice], list[Violation]]
"""Returns what is wrong with the plan that an advice leads to. Blocks; called in a thread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Limits of one decision."""

    seconds: float
    rounds: int
    """Replies that only call tools."""
    tokens: int
    """Of all prompts and replies."""


class NoAdvice(Exception):
    """There is no valid answer, so the rules decide; ``str()`` is a slug, ``: `` and the detail."""

    def __init__(self, slug: str, detail: str, *, endpoint_failed: bool = False) -> None:
        """``endpoint_failed``: the circuit breaker counts it."""
        super().__init__(f"{slug}: {detail}")
        self.endpoint_failed = endpoint_failed


class Agent:
    """Asks one endpoint. Keeps no state between decisions; safe to use concurrently."""

    def __init__(self, *, endpoint: Endpoint, clock: Clock, budget: Budget) -> None:
        """``budget`` applies to each decision."""
        self.endpoint = endpoint
        self._clock = clock
        self._budget = budget

    async def choose(
        self, choices: Choices, toolbox: Toolbox, check: Check, transcript: Transcript
    ) -> Advice:
        """Have the LLM choose; a wrong answer is returned to it once, with the violations.

        Args:
            choices: what it may choose.
            toolbox: what it may look up.
            check: returns the violations of the resulting plan.
            transcript: filled in any case.

        Raises:
            NoAdvice: there is no answer, none in time, or no valid one.
        """
        try:
            async with asyncio.timeout(self._budget.seconds):
                return await self._choose(choices, toolbox, check, transcript)
        except TimeoutError:
            raise NoAdvice(
                "timeout", f"no answer within {self._budget.seconds:g} s", endpoint_failed=True
            ) from None
        except EndpointError as exc:
            if exc.too_long:
                # The endpoint is well: the next question may be shorter.
                raise NoAdvice("context", str(exc)) from exc
            raise NoAdvice("endpoint-error", str(exc), endpoint_failed=True) from exc

    async def _choose(
        self, choices: Choices, toolbox: Toolbox, check: Check, transcript: Transcript
    ) -> Advice:
        able = await self.endpoint.capabilities(now=self._clock.monotonic())
        transcript.add(SystemMessage(prompt.SYSTEM))
        question = prompt.question(choices, tools=able.tools, enforces_schema=able.schema)
        transcript.add(HumanMessage(question))
        answer = await self._answer(choices, toolbox, able, transcript, with_tools=able.tools)
        advice, violations = await self._judge(answer, choices, check, transcript)
        if violations:
            transcript.add_violations(violations)
            transcript.add(HumanMessage(prompt.repair(violations)))
            answer = await self._answer(choices, toolbox, able, transcript, with_tools=False)
            advice, violations = await self._judge(answer, choices, check, transcript)
        if violations or advice is None:
            transcript.add_violations(violations)
            unreadable = any(v.rule == "answer" for v in violations)
            raise NoAdvice(
                "invalid-answer" if unreadable else "violations",
                "; ".join(v.message for v in violations[:3]),
            )
        return advice

    async def _judge(
        self, answer: Any, choices: Choices, check: Check, transcript: Transcript
    ) -> tuple[Advice | None, list[Violation]]:
        if answer is None and transcript.cut:
            return None, [Violation(rule="answer", subject="answer", message=CUT)]
        parsed = parse_answer(answer, choices)
        if parsed.violations:
            return None, parsed.violations
        advice = choices.advice(parsed.chosen)
        return advice, await asyncio.to_thread(check, advice)

    async def _answer(
        self,
        choices: Choices,
        toolbox: Toolbox,
        capabilities: Capabilities,
        transcript: Transcript,
        *,
        with_tools: bool,
    ) -> Any:
        """Return the answer as JSON values; ``None`` where it is not JSON."""
        rounds, last, known = 0, False, set[tuple[str, str]]()
        decide = prompt.decide_tool(choices)
        while with_tools:
            # After the last round there is nothing but `decide`: a server that binds the reply
            # to the tools cannot return another look-up then.
            tools = [decide] if last else [*toolbox.specifications(), decide]
            reply = await self._ask(transcript, "tools", tools=tools)
            if _decides(reply) or not reply.calls:
                # A reply without a tool call is the answer; if it is not JSON, ask for JSON.
                found = _decision(reply, transcript)
                if found is not None:
                    return found
                transcript.add(HumanMessage(prompt.USE_JSON))
                break
            if last:
                raise NoAdvice("steps", f"no decision after {rounds} rounds of tool calls")
            rounds += 1
            new = await self._look_up(reply, toolbox, transcript, known)
            # A small model asks the same again until no round is left, each one longer.
            last = rounds >= self._budget.rounds or not new
            if last:
                transcript.add(HumanMessage(prompt.LAST_ROUND))
        if capabilities.schema:
            reply = await self._ask(transcript, "schema", schema=schema(choices))
        elif capabilities.tools:
            reply = await self._ask(transcript, "tools", tools=[decide])
        else:
            reply = await self._ask(transcript, "text")
        return _decision(reply, transcript)

    async def _ask(self, transcript: Transcript, mode: str, **options: Any) -> Reply:
        left = self._budget.tokens - transcript.tokens
        if left <= 0:
            raise NoAdvice("tokens", f"the budget of {self._budget.tokens} tokens is spent")
        began = self._clock.monotonic()
        most, messages = min(REPLY_TOKENS, left), transcript.messages
        try:
            reply = await self.endpoint.ask(messages, max_tokens=most, **options)
        except EndpointError as exc:
            if not exc.too_long or most <= SHORT_REPLY_TOKENS:
                raise
            reply = await self.endpoint.ask(messages, max_tokens=SHORT_REPLY_TOKENS, **options)
        transcript.add_reply(reply, seconds=self._clock.monotonic() - began, mode=mode)
        return reply

    async def _look_up(
        self, reply: Reply, toolbox: Toolbox, transcript: Transcript, known: set[tuple[str, str]]
    ) -> bool:
        """Answer each tool call: endpoints refuse a conversation with an unanswered one.

        Adds the calls to ``known``, by name and arguments; returns whether one of them was new.
        """
        before = len(known)
        for place, call in enumerate(reply.calls):
            asked = call.name, call.raw or json.dumps(call.arguments)
            if place >= CALLS_PER_ROUND:
                answer = f"error: only {CALLS_PER_ROUND} calls at once are answered"
            elif asked in known:
                answer = REPEATED
            elif call.arguments is None:
                answer = f"error: the arguments are no JSON object: {call.raw}"
            else:
                answer = await asyncio.to_thread(toolbox.call, call.name, call.arguments)
            if place < CALLS_PER_ROUND:
                known.add(asked)
            transcript.add(ToolMessage(answer, tool_call_id=call.id, name=call.name))
        return len(known) > before


def _decides(reply: Reply) -> bool:
    return any(call.name == DECIDE for call in reply.calls)


def _decision(reply: Reply, transcript: Transcript) -> Any:
    """Return the answer in ``reply``, from a tool call or from its text; ``None`` without one.

    Answers each of its tool calls, as the protocol demands, in case the conversation goes on.
    """
    for call in reply.calls:
        transcript.add(ToolMessage("taken down", tool_call_id=call.id, name=call.name))
    for call in reply.calls:
        if call.name == DECIDE:
            if call.arguments is not None:
                return dict(call.arguments)
            return _document(call.raw, cut=reply.cut)
    return _document(reply.text, cut=reply.cut)


def _document(text: str, *, cut: bool) -> Any:
    """Return the first JSON object in ``text``: models wrap it in prose and Markdown fences.

    In a text that was ``cut`` only the first brace counts: a later one may be inside the object
    that has no end.
    """
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            return decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            if cut or start > 2000:
                return None
    return None
