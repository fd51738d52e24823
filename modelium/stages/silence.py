"""What is done about silent nodes: as little as possible. What they hold is unknown, not gone."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.models import Fleet, Model
from modelium.stages.services import Services


async def relieve(services: Services, fleet: Fleet, models: Iterable[Model]) -> bool:
    """Queue those of ``models`` again that requests wait for and a silent node holds.

    While a silent node's gateway answers, nothing waits. Returns whether there were any.

    Raises:
        NotPlanner: another node plans by now.
    """
    held: dict[str, list[str]] = {}
    for model in models:
        if model.traffic.pending and model.deployment is not None:
            for name in model.deployment.nodes:
                held.setdefault(name, []).append(model.name)
    relieved = False
    for name, waiting in held.items():
        node = fleet.nodes_by_name.get(name)
        if node is None or not node.silent:
            continue
        reason = f"node {name} has been silent for {node.silent_s:.0f} s, and requests wait"
        for model_name in await services.store.nodes.relieve(name, waiting, reason=reason):
            relieved = True
            await services.store.events.append(
                "model.relieved", model=model_name, node=name, reason=reason
            )
    return relieved
