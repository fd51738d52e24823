"""What is this node's own."""

from __future__ import annotations

from collections.abc import Iterable

from modelium.models import Decision, Deployment, Fleet, Load, Plan
from modelium.stages.services import Services


def is_here(services: Services, deployment: Deployment | None) -> bool:
    """Whether this node loads, watches and ends ``deployment``; nothing is everywhere's.

    Of one over several nodes, that is the first one: see `modelium.stages.parts`.
    """
    return deployment is None or answers_here(services, deployment)


def answers_here(services: Services, deployment: Deployment) -> bool:
    """Whether this node is the one that answers requests for ``deployment``."""
    return not services.node or services.node == deployment.node


def own(services: Services, fleet: Fleet) -> Fleet:
    """Return ``fleet`` with the models that this node has something of, or that nobody has."""
    if not services.node:
        return fleet
    models = tuple(model for model in fleet.models if is_here(services, model.deployment))
    held = tuple(one for one in fleet.bookings if has_devices(services, (one.device,)))
    return fleet.model_copy(update={"models": models, "bookings": held})


def is_placed_here(services: Services, load: Load) -> bool:
    """Whether this node is the one that carries ``load`` out."""
    return has_devices(services, load.devices[:1])


def has_devices(services: Services, devices: Iterable[str]) -> bool:
    """Whether one of ``devices`` (ids) is of this node."""
    return not services.node or any(one.startswith(f"{services.node}/") for one in devices)


async def unloads_here(services: Services, plan: Plan) -> list[str]:
    """Return the models that ``plan`` unloads from runtimes of this node."""
    leaving = [action.model for action in plan.unloads]
    if not services.node:
        return leaving
    found = [await services.store.find(name) for name in leaving]
    return [m.name for m in found if m is not None and is_here(services, m.deployment)]


def is_carried_out_here(services: Services, decision: Decision) -> bool:
    """Whether this node begins what ``decision`` says for it.

    What another node decided is begun by the loops of the nodes that it is about.
    """
    return decision.node == services.node
