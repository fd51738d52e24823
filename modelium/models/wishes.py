"""What whoever dropped a model asks for in the note beside it (no I/O here)."""

from __future__ import annotations

from pydantic import Field

from modelium.models.base import Frozen, Priority, RuntimeName

MAX_CONTEXT = 2**31 - 1
MAX_TEXT = 500
"""Characters of the wish in words: it is read by people, and by an LLM among other facts."""


class Wishes(Frozen):
    """The contents of a ``modelium.toml``: data of the drop, which no rule has to follow.

    What became of each says `modelium.policy.wish_outcomes`.
    """

    team: str | None = None
    priority: Priority | None = None
    context: int | None = Field(default=None, ge=1, le=MAX_CONTEXT)
    """Tokens that are enough."""
    runtime: RuntimeName | None = None
    text: str = Field(default="", max_length=MAX_TEXT)
    """In words; untrusted text."""
    problems: tuple[str, ...] = ()
    """What in the note was not understood, a sentence each."""
