"""Begins on this node what another one has decided. The rows say what is due, not messages."""

from __future__ import annotations

from modelium.control.following import at_each_change
from modelium.lifecycle import ModelState
from modelium.models import Deployment, Model
from modelium.stages.locality import is_carried_out_here, is_here
from modelium.stages.part_work import PartWork
from modelium.stages.services import Services
from modelium.stages.settling import transition_of


class Acting:
    """Looks whenever the store changes."""

    def __init__(self, *, services: Services) -> None:
        """Act with ``services``."""
        self._services = services
        self._parts = PartWork(services=services)

    async def run(self) -> None:
        """Act until cancelled."""
        what = "what is due on this node could not be read"
        await at_each_change(self._services, self.act, failing=what)

    async def act(self) -> None:
        """Begin what is due now and nobody here is at."""
        services = self._services
        await self._parts.act()
        for name in await services.store.states.due_on(services.node):
            model = await services.store.find(name)
            if model is None or model.deployment is None:
                continue
            if not is_here(services, model.deployment):
                continue
            if name in services.loads and model.state is not ModelState.LOADING:
                await services.loads.abort(name)  # another node took it back
            elif name not in services.owners:
                await self._begin(model, model.deployment)

    async def _begin(self, model: Model, deployment: Deployment) -> None:
        """Begin what another node has decided about ``model``.

        What this one has decided itself, and what was begun before, has an owner, or is settled by
        the control loop.
        """
        services, name = self._services, model.name
        decision = await transition_of(services, model)
        if decision is None or is_carried_out_here(services, decision):
            return
        launcher = services.launcher
        if model.state is ModelState.LOADING and not deployment.begun:
            run = launcher.load(model=name, decision=decision.id)
            launcher.start(services.owners.during(run, name))
        elif model.state is ModelState.DRAINING:
            run = launcher.evict(models=[name], decision=decision.id)
            launcher.start(services.owners.during(run, name))
