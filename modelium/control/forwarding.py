"""Opens models that are loaded on other nodes: requests for them go to their node's gateway."""

from __future__ import annotations

from modelium.control.following import at_each_change
from modelium.lifecycle import ModelState
from modelium.models import Model, Node, Upstream
from modelium.models.base import twin_name
from modelium.stages.locality import answers_here
from modelium.stages.services import Services

RETRY_S = 2.0
"""Before a node is tried again whose gateway did not answer: requests wait meanwhile."""


class Forwarding:
    """Keeps the switchboard's routes to other nodes as the store has them."""

    def __init__(self, *, services: Services) -> None:
        """Nothing is open yet."""
        self._services = services
        self._open: dict[str, Upstream] = {}
        self._again: dict[str, float] = {}
        """Model → when it is opened again, in monotonic seconds."""

    async def run(self) -> None:
        """Follow the store until cancelled."""
        what = "the routes to other nodes stay as they are"
        await at_each_change(self._services, self.follow, failing=what)

    async def follow(self) -> None:
        """Open and close as the store says now."""
        services, board = self._services, self._services.switchboard
        _revision, models, _bookings = await services.store.view()
        nodes = {node.name: node for node in await services.store.nodes.all()}
        kept = (model for model in models if model.removal is None and model.twin_of is None)
        board.know({model.name: model.version for model in kept})
        wanted = {}
        for model in models:
            upstream = self._upstream(model, nodes)
            if upstream is not None:
                wanted[model.name] = upstream
        for name in self._open.keys() - wanted.keys():
            if board.upstream(name) == self._open.pop(name):
                board.close(name)
        for model in models:
            if model.name in wanted:
                self._route(model, wanted[model.name])

    def _upstream(self, model: Model, nodes: dict[str, Node]) -> Upstream | None:
        services, deployment = self._services, model.deployment
        if deployment is None or model.state is not ModelState.READY:
            return None
        if model.twin_of is not None or model.removal is not None or services.peers is None:
            return None
        if answers_here(services, deployment) or deployment.node not in nodes:
            return None
        return services.peers.upstream(model, deployment, nodes[deployment.node])

    def _route(self, model: Model, upstream: Upstream) -> None:
        """Open ``model`` unless it is open; one whose gateway did not answer, after a pause."""
        services, board, name = self._services, self._services.switchboard, model.name
        now, current = services.clock.monotonic(), board.upstream(name)
        version = model.deployment.version if model.deployment else model.version
        if board.is_suspect(name):
            board.close(name)
            self._again[name] = now + RETRY_S
            return
        if current == upstream or now < self._again.get(name, now):
            return
        self._again.pop(name, None)
        if current is not None and not current.peer:
            # An earlier version ends here while the next one serves elsewhere.
            before = board.answers(name).version or 0
            board.switch(name, upstream, version=version, aside=twin_name(name, before))
        else:
            board.open(name, upstream, version=version)
        self._open[name] = upstream
