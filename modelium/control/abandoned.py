"""Intents and decisions whose task has ended without recording how: of an earlier life, or killed.

What a decision still has under way, the states of its models say; what an intent has, this
process knows.
"""

from __future__ import annotations

import logging

from modelium.lifecycle import LEAVING, ModelState
from modelium.models import Decision, Model
from modelium.stages.services import Services

logger = logging.getLogger(__name__)

RESTARTED = "interrupted by a restart"
FORGOTTEN = "its task ended without recording how; ask again where it is still wanted"


class Abandoned:
    """Settles them: as failed, with the reason."""

    def __init__(self, *, services: Services) -> None:
        """``services``: the store, and what is being attended to."""
        self._services = services
        self._suspects: set[str] = set()
        self._since = 0.0

    async def settle(self) -> None:
        """Settle what nobody is at now, nor was at the last call."""
        await self._settle(FORGOTTEN, before=None)

    async def settle_earlier(self, *, before: float) -> None:
        """Settle what is left of the time before this life of the service began."""
        await self._settle(RESTARTED, before=before)

    async def _settle(self, why: str, *, before: float | None) -> None:
        store, now = self._services.store, self._services.clock.time()
        # In this order: what is accepted after the models were read is not looked at.
        here = self._services.node
        intents = [one for one in await store.intents.pending() if one.node in ("", here)]
        # The states of models say what is under way of each, whoever has decided it.
        decisions = await store.decisions.accepted(since=self._since) if store.plans else []
        _revision, models, _bookings = await store.view()
        known = {model.name: model for model in models}
        idle = {i.id: i.at for i in intents if i.id not in self._services.attended}
        idle |= {d.id: d.at for d in decisions if not _under_way(d, known)}
        due = {
            name
            for name, at in idle.items()
            if (name in self._suspects if before is None else at < before)
        }
        self._suspects = idle.keys() - due
        self._since = min((d.at for d in decisions if d.id not in due), default=now)
        for intent in intents:
            if intent.id in due:
                await store.intents.abandon(intent.id, detail=why)
        for decision in decisions:
            if decision.id in due:
                await store.decisions.abandon(decision.id, detail=why)
        if due:
            logger.info("%d requests and decisions were settled as failed: %s", len(due), why)


def _under_way(decision: Decision, models: dict[str, Model]) -> bool:
    """Whether a load or an unload of ``decision`` goes on."""
    for load in decision.plan.loads:
        model = models.get(load.model)
        if (
            model is not None
            and model.state is ModelState.LOADING
            and model.deployment is not None
            and model.deployment.started_at == decision.at
        ):
            return True
    for unload in decision.plan.unloads:
        model = models.get(unload.model)
        if model is not None and model.state in LEAVING:
            return True
    return False
