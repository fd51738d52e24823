"""A worker's routing table: the service's, which it follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from modelium.clock import SystemClock
from modelium.errors import Unavailable
from modelium.gateway.workers.counts import Counts
from modelium.models import Priority, Upstream
from modelium.routing.admission import Admission
from modelium.routing.switchboard import Switchboard
from modelium.traffic import TrafficBook


class Table:
    """A `proxy.dataplane.Board` that reports what it sees in place of acting on it."""

    def __init__(self, *, counts: Counts) -> None:
        """Start with every model closed and unknown."""
        self.traffic = counts
        self._openings: dict[str, int] = {}
        self._board = Switchboard(
            traffic=TrafficBook(clock=SystemClock()),
            counts=counts,
            listener=counts,
            metrics=counts,
            max_waiting_per_model=0,
            max_waiting=0,
            max_wait_s=0.0,
        )

    # --- from the service -----------------------------------------------------------------

    def limit(self, max_waiting_per_model: int, max_waiting: int, max_wait_s: float) -> None:
        """See `routing.mirror.Mirror`, as for the next ones."""
        self._board.limit(
            max_waiting_per_model=max_waiting_per_model,
            max_waiting=max_waiting,
            max_wait_s=max_wait_s,
        )

    def know(self, names: Mapping[str, int | None]) -> None:
        """Have these models exist."""
        # A version that is not known is None here as there.
        self._board.know(cast("Mapping[str, int]", names))

    def open(
        self, model: str, upstream: Mapping[str, Any], version: int | None, opening: int
    ) -> None:
        """Route to ``upstream``; ``opening``: its number, by which the service is told of it."""
        self._openings[model] = opening
        self._board.open(model, Upstream.model_validate(upstream), version=version)

    def set_aside(self, model: str, aside: str) -> None:
        """Close ``model``, before it opens elsewhere."""
        self._board.set_aside(model, aside)

    def close(self, model: str) -> None:
        """Make new requests wait."""
        self._board.close(model)

    def refuse(self, model: str, message: str, reason: str, retry_after_s: float) -> None:
        """Refuse the requests that wait."""
        error = Unavailable(message)
        error.reason = reason
        self._board.refuse(model, error, retry_after_s=retry_after_s)

    def expect(self, model: str, ready_in_s: float, reason: str) -> None:
        """Say when it opens."""
        self._board.expect(model, ready_in_s=ready_in_s, reason=reason)

    async def drained(self, model: str, timeout_s: float) -> bool:
        """Wait for the requests in flight."""
        return await self._board.drained(model, timeout_s=timeout_s)

    # --- for the data plane ---------------------------------------------------------------

    def admit(
        self,
        model: str,
        *,
        version: int | None = None,
        priority: Priority | None = None,
        arrives: bool = True,
        since: float | None = None,
    ) -> Admission:
        """See `Switchboard.admit`."""
        return self._board.admit(
            model, version=version, priority=priority, arrives=arrives, since=since
        )

    def upstream(self, model: str) -> Upstream | None:
        """Where ``model`` answers, if it is open."""
        return self._board.upstream(model)

    def judge(self, model: str, upstream: Upstream, *, failed: bool) -> None:
        """Have the service count an answer, unless another upstream gives them by now."""
        if self._board.upstream(model) == upstream:
            self.traffic.on_judged(model, self._openings[model], failed)

    def suspect(self, model: str) -> None:
        """Have the service examine the upstream."""
        if self._board.upstream(model) is not None:
            self.traffic.on_suspect(model, self._openings[model])

    def lost(self, model: str, upstream: Upstream) -> bool:
        """See `Switchboard.lost`; the service has the other workers close it, too."""
        lost = self._board.lost(model, upstream)
        if lost:
            self.traffic.on_lost(model, self._openings[model])
        return lost
