"""What is done about silent nodes: as little as possible. What they hold is unknown, not gone."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.lifecycle import ModelState
from modelium.models import Fleet, Model, Trigger
from modelium.ports import Question
from modelium.stages.services import Services


async def relieve(services: Services, fleet: Fleet, models: Iterable[Model]) -> bool:
    """Queue those of ``models`` again that requests wait for and a silent node holds.

    While a silent node's gateway answers, nothing waits. What no other node can load now stays as
    it is: the node may come back with it. Returns whether there were any.

    Raises:
        NotPlanner: another node plans by now.
    """
    if not services.heartbeat.may_judge(services.clock.monotonic()):
        return False
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
        waiting = [one for one in waiting if await _has_another_place(services, fleet, one)]
        if not waiting:
            continue
        reason = f"node {name} has been silent for {node.silent_s:.0f} s, and requests wait"
        for model_name in await services.store.nodes.relieve(name, waiting, reason=reason):
            relieved = True
            await services.store.events.append(
                "model.relieved", model=model_name, node=name, reason=reason
            )
    return relieved


async def _has_another_place(services: Services, fleet: Fleet, name: str) -> bool:
    """Whether the rules would load the model on another node, were it not loaded."""
    queued = fleet.models_by_name[name].model_copy(
        update={"state": ModelState.QUEUED, "deployment": None, "queued_at": fleet.at}
    )
    models = tuple(queued if model.name == name else model for model in fleet.models)
    bookings = tuple(booking for booking in fleet.bookings if booking.model != name)
    imagined = fleet.model_copy(update={"models": models, "bookings": bookings})
    question = Question(trigger=Trigger.DEMAND, model=name, now=services.clock.time())
    plan = await services.brain.decide(question, imagined, services.policy)
    return any(load.model == name for load in plan.loads)
