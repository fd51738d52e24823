"""The gauges of nodes (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import GaugeMetricFamily, Metric

from modelium.models import Fleet, NodeState


def node_families(fleet: Fleet) -> Iterator[Metric]:
    """Yield the gauges of all nodes, as the one that plans shows them."""
    up = GaugeMetricFamily("modelium_node_up", "0 if the node is silent.", labels=["node"])
    age = GaugeMetricFamily(
        "modelium_node_heartbeat_age_seconds",
        "Seconds since the node's last heartbeat, by the database's clock.",
        labels=["node"],
    )
    state = GaugeMetricFamily(
        "modelium_node_state", "1 for what operators set the node to.", labels=["node", "state"]
    )
    for node in fleet.nodes:
        up.add_metric([node.name], not node.silent)
        age.add_metric([node.name], node.silent_s)
        for one in get_args(NodeState):
            state.add_metric([node.name, one], node.state == one)
    yield from (up, age, state)


def planner_family(fleet: Fleet, node: str) -> Metric:
    """Return the gauge that each node shows of itself: their sum is 1, unless nobody plans."""
    family = GaugeMetricFamily(
        "modelium_node_planner", "1 if this node is the one that plans.", labels=["node"]
    )
    own = fleet.nodes_by_name.get(node)
    if own is not None:
        family.add_metric([node], own.plans)
    return family
