"""What an endpoint can do, as far as probing has shown it (no I/O here)."""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_PAUSE_S = 600.0
LONGEST_PAUSE_S = 86_400.0
"""Pauses between probes of what was not shown: each is twice as long, up to this. One bad reply may
hide a capability; most endpoints will never have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What an endpoint can do."""

    tools: bool
    """It calls a tool when it must (``tool_choice: required``)."""
    schema: bool
    """It enforces a JSON schema."""
    strict: bool = False
    """It accepts strict tools such as ours, and to be held to one call a reply.

    vLLM binds arguments to their schema in strict tools alone, and a small model repeats its call
    until the reply is cut off.
    """

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be shown."""
        return self.schema and self.tools and self.strict


NONE_SHOWN = Capabilities(tools=False, schema=False)


class Findings:
    """What probing has shown of one endpoint, and when it is probed again for the rest.

    What was shown once is not probed again.
    """

    def __init__(self, *, known: Capabilities | None = None) -> None:
        """``known``: what it can do, if that needs no probing."""
        self.known = known
        """``None``: nothing yet."""
        self._pause_s = FIRST_PAUSE_S
        self._due_at = math.inf

    def are_due(self, now: float) -> bool:
        """Whether to probe for the rest; ``now``: seconds that never go back."""
        return self.known is not None and not self.known.complete and now >= self._due_at

    def postpone(self, now: float) -> None:
        """Note that the endpoint is probed at ``now``."""
        self._due_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
