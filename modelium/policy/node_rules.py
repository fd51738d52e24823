"""Which nodes may load a model, and what keeps the others from it (no I/O here).

Planner and validator both ask here. Where a fleet names no nodes there is one, and all of its
devices may be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from modelium.lifecycle import ModelState
from modelium.models import (
    Deployment,
    EvictionCause,
    Fleet,
    Model,
    Node,
    RuntimeName,
    Unload,
)
from modelium.models.nodes import FENCED_S
from modelium.policy.action_checks import Fault
from modelium.policy.policy import Policy


def closed(node: Node, *, waking: bool = False) -> Fault | None:
    """Return why nothing new is loaded on ``node``; ``None`` where something may be.

    ``waking``: of a model that sleeps there, which an operator's cordon does not keep asleep.
    """
    name = node.name
    if node.silent_s > FENCED_S:
        return ("node-silent", silence(node))
    if not node.report.settled:
        return ("node-unsettled", f"node {name} still compares the store with its engines")
    if node.strays:
        return (
            "node-unsettled",
            f"node {name} still ends {node.strays} engines that others replaced meanwhile",
        )
    if node.state == "cordoned" and not waking:
        return ("node-cordoned", f"node {name} is cordoned; `modelium nodes uncordon {name}`")
    if node.state == "draining" and not waking:
        return ("node-draining", f"node {name} is being drained")
    return None


def silence(node: Node) -> str:
    """Return for how long nobody has heard of ``node``."""
    return f"node {node.name} has been silent for {node.silent_s:.0f} s"


def silent_node(deployment: Deployment | None, fleet: Fleet) -> Node | None:
    """Return a silent node of ``deployment``: nobody knows what becomes of it there."""
    if deployment is None or not fleet.nodes:
        return None
    found = (fleet.nodes_by_name.get(name) for name in deployment.nodes)
    return next((node for node in found if node is not None and node.silent), None)


def draining_node(deployment: Deployment | None, fleet: Fleet) -> Node | None:
    """Return a node of ``deployment`` that is being drained, and can act."""
    if deployment is None or not fleet.nodes:
        return None
    found = (fleet.nodes_by_name.get(name) for name in deployment.nodes)
    able = (node for node in found if node is not None and not node.silent)
    return next((node for node in able if node.state == "draining"), None)


def holds(constraint: str, name: str, labels: Mapping[str, str]) -> bool:
    """Whether the node ``name`` with ``labels`` satisfies a name, or ``label=value``."""
    label, given, value = constraint.partition("=")
    return labels.get(label) == value if given else constraint == name


def unsuited(model: Model, node: Node, fleet: Fleet, policy: Policy) -> Fault | None:
    """Return why ``model`` may never load on ``node`` as things are; ``None`` where it may.

    The operator's constraint, and its files: they are there, or the node fetches them.
    """
    base = model.twin_of or model.name
    wanted = policy.model_nodes.get(base)
    if wanted and not any(holds(one, node.name, node.report.labels) for one in wanted):
        allowed = ", ".join(wanted)
        return (
            "node-constraint",
            f"models.{base}.nodes allows {allowed}, and not node {node.name}",
        )
    having = fleet.files.get(model.name)
    if having is None or node.name in having:
        return None
    if not node.report.fetches:
        return ("node-files", f"its files are not on node {node.name}, which does not fetch")
    if not any(not other.silent for name in having for other in _named(name, fleet)):
        return (
            "node-files",
            f"no node that answers has its files, so node {node.name} has no source",
        )
    return None


def refusal(
    model: Model, node: str, fleet: Fleet, policy: Policy, *, waking: bool = False
) -> Fault | None:
    """Return why ``model`` may not be loaded on ``node`` now; ``None`` where it may."""
    if not fleet.nodes:
        return None
    known = fleet.nodes_by_name.get(node)
    if known is None:
        return ("node-unknown", f"node {node} is not one of the fleet")
    if waking:
        return closed(known, waking=True)
    return closed(known) or unsuited(model, known, fleet, policy)


def load_node_faults(
    model: Model, nodes: Iterable[str], fleet: Fleet, policy: Policy
) -> Iterator[Fault]:
    """Yield what forbids a load of ``model`` on each of ``nodes``."""
    waking = model.state is ModelState.SLEEPING
    for node in nodes:
        fault = refusal(model, node, fleet, policy, waking=waking)
        if fault is not None:
            yield fault


def spans_faults(runtime: RuntimeName, nodes: Iterable[str], fleet: Fleet) -> Iterator[Fault]:
    """Yield the ``nodes`` that can hold no part of a model over several nodes."""
    for name in nodes:
        status, node = fleet.runtime_on(runtime, name), fleet.nodes_by_name.get(name)
        if status is None or not status.spans_nodes:
            yield ("spans-nodes", f"{runtime} on node {name} splits no model over several nodes")
        elif node is None or not node.report.address:
            yield ("spans-nodes", f"node {name} names no address; set gateway.advertise there")


def unload_node_faults(
    action: Unload, model: Model, fleet: Fleet, policy: Policy
) -> Iterator[Fault]:
    """Yield an unload of what a silent node holds, and a move that is none."""
    silent = silent_node(model.deployment, fleet)
    if silent is not None:
        yield ("node-silent", f"{silence(silent)}; what it holds stays until it is back")
    if action.cause is not EvictionCause.DRAIN:
        return
    if draining_node(model.deployment, fleet) is None:
        yield ("drain", "no node that holds it is being drained")
    elif model.state is ModelState.READY and not action.requeue:
        yield ("drain", "a drain moves what is ready: it has to be queued again")
    elif model.state is ModelState.READY and not any(
        refusal(model, node.name, fleet, policy) is None for node in fleet.nodes
    ):
        yield ("drain", "no other node may load it now")


def _named(name: str, fleet: Fleet) -> tuple[Node, ...]:
    node = fleet.nodes_by_name.get(name)
    return () if node is None else (node,)
