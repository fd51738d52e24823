"""What operators see of several machines, and what they ask of them."""

from __future__ import annotations

import contextlib

import pytest

from modelium.control.node_operations import NodeOperations
from modelium.control.operations import Operations
from modelium.errors import InputError
from modelium.gateway.api.views import model_rows
from modelium.store.nodes import TOKEN_PREFIX
from tests.nodes.cluster import Cluster

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("postgresql")]


def seen_from(cluster: Cluster, node: str) -> NodeOperations:
    return NodeOperations(services=cluster.nodes[node].services)


async def test_every_node_lists_all_nodes_and_what_they_have(cluster: Cluster) -> None:
    for name in ("a", "b"):
        await cluster.add(name)
    cluster.place("m", "b")
    await cluster.round()

    for name in ("a", "b"):
        rows = {row.name: row for row in await seen_from(cluster, name).all()}
        assert {row.name: row.plans for row in rows.values()} == {"a": True, "b": False}
        assert [row.name for row in rows.values() if row.here] == [name]
        assert (rows["a"].models, rows["b"].models) == ((), ("m",))
        assert rows["b"].report.address == "http://b:8000"
        assert all(one.processes == () for one in rows["b"].report.devices), "of nobody's concern"

    operations = Operations(services=cluster.nodes["a"].services)
    async with contextlib.aclosing(operations):
        (row,) = model_rows(await operations.fleet())
    assert row.nodes == ("b",)


async def test_a_silent_node_is_listed_as_such_and_may_be_removed(cluster: Cluster) -> None:
    for name in ("a", "b"):
        await cluster.add(name)
    cluster.place("m", "b")
    await cluster.round()
    with pytest.raises(InputError, match="stop Modelium on it first"):
        await seen_from(cluster, "a").remove("b")
    await cluster.down("b")
    await cluster.live(20)

    operations = seen_from(cluster, "a")
    row = (await operations.show("b")).node
    assert (row.silent, row.heartbeat_s >= 15, row.models) == (True, True, ("m",))
    removed = await operations.remove("b")

    assert removed.queued == ("m",)
    assert [row.name for row in await operations.all()] == ["a"]
    with pytest.raises(InputError, match="no node is called 'b'"):
        await operations.show("b")
    cluster.machines["b"].held.clear()


async def test_a_drained_node_says_what_leaves_and_why_the_rest_stays(cluster: Cluster) -> None:
    for name in ("a", "b"):
        await cluster.add(name)
    cluster.place("here", "a")
    cluster.place("moves", "b")
    await cluster.live(15)  # a node looks at its runtimes, then reports them
    operations = seen_from(cluster, "a")

    assert (await operations.set_state("b", "draining")).state == "draining"
    detail = await operations.show("b")
    assert detail.leaving == ()
    assert "no other node has room" in detail.staying["moves"]
    assert "node.draining" in {e.kind for e in cluster.nodes["a"].store.events.newest()}

    await cluster.add("c")
    await cluster.live(15)
    detail = await operations.show("b")
    assert detail.leaving == detail.node.models, "it leaves, or it has left"
    assert (await operations.set_state("b", "active")).state == "active"
    assert (await operations.show("b")).staying == {}


async def test_a_token_lets_one_machine_join(cluster: Cluster) -> None:
    await cluster.add("a")
    issued = await seen_from(cluster, "a").issue_token()

    assert issued.token.startswith(TOKEN_PREFIX)
    assert issued.valid_s == 24 * 3600
    events = cluster.nodes["a"].store.events.newest()
    assert issued.token not in repr(events)
