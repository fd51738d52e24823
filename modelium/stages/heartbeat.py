"""Whether the other nodes can still know of this one (no I/O here)."""

from __future__ import annotations

from modelium.errors import Unavailable
from modelium.models.nodes import FENCED_S, SILENT_S


class Heartbeat:
    """When the store last took this node's heartbeat. Times are monotonic seconds."""

    def __init__(self) -> None:
        """One that is alone needs none."""
        self._at: float | None = None
        self._since = 0.0
        """When the store took the first one of those that have come without a break since."""

    def note(self, now: float) -> None:
        """The store took one that was sent at ``now``."""
        if self._at is None or now - self._at > FENCED_S:
            self._since = now
        self._at = now

    def may_judge(self, now: float) -> bool:
        """Whether the silence of others is their own.

        Where the store did not serve, or everything has just started, all of them are silent to
        the first one that is back.
        """
        return self._at is None or now - self._since > SILENT_S

    def check(self, now: float) -> None:
        """Raise `Unavailable` where a load must not begin any more."""
        if self._at is not None and now - self._at > FENCED_S:
            raise Unavailable(
                f"this node has not reached the store for {now - self._at:.0f} s, and others may "
                "take its models over; nothing is begun before it is back"
            )
