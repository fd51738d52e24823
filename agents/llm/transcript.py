"""The record of one conversation with an LLM, and its token count (no I/O here)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from agents.llm.endpoint import Reply
from agents.llm.untrusted import shortened
from modelium.models import Violation

KEPT_CHARACTERS = 20_000
"""Longest text recorded of one message."""

VIOLATIONS = 12
VIOLATION_CHARACTERS = 600
"""Most violations recorded of one answer, and the longest text of one."""


class Transcript:
    """Collects the messages, their tokens, and the violations in the answers."""

    def __init__(self, *, redacted: Callable[[str], str]) -> None:
        """``redacted``: removes secrets from a text."""
        self.messages: list[BaseMessage] = []
        """As they are sent to the endpoint."""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cut = False
        """Whether the last reply ended at its longest length."""
        self._redacted = redacted
        self._replies: list[dict[str, Any]] = []
        self._violations: list[list[dict[str, str]]] = []

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and replies so far."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, message: BaseMessage) -> None:
        """Append a message to the endpoint."""
        self.messages.append(message)

    def add_reply(self, reply: Reply, *, seconds: float, mode: str) -> None:
        """Append the endpoint's reply; ``mode``: ``tools``, ``schema`` or ``text``."""
        self.messages.append(reply.message)
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.cut = reply.cut
        self._replies.append(
            {
                "mode": mode,
                "seconds": round(seconds, 3),
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                **({"cut": True} if reply.cut else {}),
            }
        )

    def add_violations(self, violations: Sequence[Violation]) -> None:
        """Record what is wrong with an answer, which the messages may quote."""
        self._violations.append(
            [
                {
                    "rule": v.rule,
                    "message": shortened(self._redacted(v.message), limit=VIOLATION_CHARACTERS),
                }
                for v in violations[:VIOLATIONS]
            ]
        )

    def record(self) -> dict[str, Any]:
        """Return everything as JSON values without secrets."""
        return {
            "messages": [self._message(m) for m in self.messages],
            "replies": self._replies,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "violations": self._violations,
        }

    def _message(self, message: BaseMessage) -> dict[str, Any]:
        found: dict[str, Any] = {
            "role": {"human": "user", "ai": "assistant"}.get(message.type, message.type),
            "content": self._text(message.text),
        }
        if isinstance(message, AIMessage):
            calls = [(c["name"], str(c["args"])) for c in message.tool_calls]
            calls += [(c["name"] or "", c["args"] or "") for c in message.invalid_tool_calls]
            if calls:
                found["calls"] = [
                    {"tool": self._text(name), "arguments": self._text(args)}
                    for name, args in calls
                ]
        if isinstance(message, ToolMessage):
            found["tool"] = self._text(message.name or "")
        return found

    def _text(self, text: str) -> str:
        return shortened(self._redacted(text), limit=KEPT_CHARACTERS)
