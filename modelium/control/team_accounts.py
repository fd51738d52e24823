"""Counts what the models of each team use, while teams are declared."""

from __future__ import annotations

from modelium.models import Fleet
from modelium.policy.quotas import rates
from modelium.stages.services import Services


class TeamAccounts:
    """Adds up GPU-seconds from one snapshot to the next. What a restart takes is not counted."""

    def __init__(self, *, services: Services) -> None:
        """Count from the first snapshot on."""
        self._services = services
        self._counted_at: float | None = None

    async def count(self, fleet: Fleet) -> None:
        """Store what was used since the last call, as if ``fleet`` had been so all the time."""
        services, now = self._services, self._services.clock.monotonic()
        if not services.policy.teams:
            self._counted_at = None
            return
        if self._counted_at is not None:
            seconds = now - self._counted_at
            used = {team: rate * seconds for team, rate in rates(fleet).items()}
            await services.store.team_usage.add(used)
        self._counted_at = now
