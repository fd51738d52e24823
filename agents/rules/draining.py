"""What leaves a node that is being drained, one model at a time (no I/O here)."""

from __future__ import annotations

from agents.rules.plan_builder import PlanBuilder
from modelium.lifecycle import ModelState
from modelium.models import EvictionCause, Fleet, Model

S = ModelState
LEAVING = frozenset({S.DRAINING, S.UNLOADING})


def plan_draining(builder: PlanBuilder) -> None:
    """Move the next model off each node that is being drained; keep the others, with reasons.

    A model that is ready leaves only where another node can hold it now, as it was requested and
    without evictions; it is queued again at once. Idle models go first, those in use last, pinned
    ones as the others. One leaves at a time, so that the next is planned with what the last one
    found. What sleeps is unloaded: a request loads it elsewhere.
    """
    drained = {n.name for n in builder.fleet.nodes if n.state == "draining" and not n.silent}
    for node in sorted(drained):
        moving = _moving(node, builder.fleet)
        for model in _in_order(node, builder):
            why = moving or _stays(model, builder)
            if why:
                builder.keep(model, f"stays on node {node}, which is being drained: {why}")
                continue
            _leave(model, node, builder)
            moving = f"{model.name} goes first"


def _moving(node: str, fleet: Fleet) -> str:
    """Return which model is leaving ``node`` already; empty where none is."""
    leaving = (
        model.name
        for model in fleet.models
        if model.state in LEAVING and model.deployment and node in model.deployment.nodes
    )
    first = next(leaving, None)
    return f"{first} goes first" if first is not None else ""


def _in_order(node: str, builder: PlanBuilder) -> list[Model]:
    held = [
        model
        for model in builder.fleet.models
        if model.state in (S.READY, S.SLEEPING)
        and model.name not in builder.touched
        and model.deployment is not None
        and node in model.deployment.nodes
    ]
    return sorted(held, key=lambda m: (m.state is S.READY, -m.idle_s(builder.now), m.name))


def _stays(model: Model, builder: PlanBuilder) -> str:
    """Return why ``model`` cannot be moved now; empty where it can."""
    if model.twin_of is not None or model.name in builder.fleet.twins:
        return "its versions are being switched"
    if model.removal is not None:
        return "it is being removed"
    if not builder.may_unload(model):
        return "its runtime is disabled"
    if model.state is S.SLEEPING:
        return "requests wait for it" if model.traffic.pending else ""
    if not builder.is_runnable(model, quiet=True):
        return "no runtime may load it again"
    return builder.keeps_from_moving(model)


def _leave(model: Model, node: str, builder: PlanBuilder) -> None:
    awake = model.state is S.READY
    builder.unload(
        model,
        f"node {node} is being drained; idle for {model.idle_s(builder.now):.0f} s"
        + (", and another node has room for it" if awake else ", and asleep"),
        cause=EvictionCause.DRAIN,
        requeue=awake,
    )
