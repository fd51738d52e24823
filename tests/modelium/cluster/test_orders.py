"""What one node has another one do, and what fails on the way."""

from __future__ import annotations

import asyncio

import pytest

from modelium.errors import Unavailable
from modelium.lifecycle import ModelState
from modelium.models.nodes import SILENT_S
from modelium.stages.owners import GRACE_S
from tests.nodes.cluster import Cluster

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("postgresql")]


async def loading_on_b(cluster: Cluster) -> None:
    """Have `b` load the model `m`, for which a request waits at `a`, and not come to an end."""
    await cluster.add("a", gpus=0)
    await cluster.add("b")
    cluster.machines["b"].gate.clear()
    cluster.register("m")
    await loads(cluster)


async def loads(cluster: Cluster) -> None:
    """Have a request at `a` wait for `m`, which `b` begins to load."""
    waiting = cluster.request("a", "m")
    while not cluster.machines["b"].begun:
        if waiting.done():  # `a` had not heard of it yet
            waiting = cluster.request("a", "m")
        await cluster.round()


async def settled(cluster: Cluster) -> None:
    """Have `b` see what is asked of it, and do it when nobody is at that any more."""
    for _ in range(3):
        await cluster.round()
        cluster.advance(GRACE_S)


async def test_a_load_on_another_node_is_aborted(cluster: Cluster) -> None:
    await loading_on_b(cluster)
    work = asyncio.ensure_future(cluster.nodes["a"].launcher.evict(models=["m"], reason="-"))
    await settled(cluster)
    await cluster.until(work.done)
    assert work.result().outcome == "aborted"
    assert cluster.running("m") == []


async def test_a_model_that_another_node_loads_is_removed(cluster: Cluster) -> None:
    await loading_on_b(cluster)
    a = cluster.nodes["a"]
    a.store.lineage.begin_removal("m", by="-", purge=False)
    await settled(cluster)
    await cluster.until(lambda: a.store.find("m") is None)
    assert cluster.running("m") == []


async def test_after_an_outage_of_the_database_nobody_counts_as_silent_at_first(
    cluster: Cluster,
) -> None:
    a = await cluster.add("a")
    b = await cluster.add("b")
    a.store.nodes.set_state("a", "cordoned")
    cluster.register("m")
    cluster.machines["b"].gate.clear()
    await loads(cluster)
    a.store.nodes.set_state("a", "active")
    for node in cluster.nodes.values():
        node.lose_store()
    await cluster.live(2 * SILENT_S)
    a.regain_store()
    await cluster.round()
    assert [node.silent for node in a.store.nodes.all()] == [False, True]
    await cluster.live(2.5)
    assert cluster.model("m").state is ModelState.LOADING
    b.regain_store()
    cluster.machines["b"].gate.set()
    assert await cluster.answered("a", "m") == "b"


async def test_a_stray_that_does_not_end_keeps_no_node_from_planning(cluster: Cluster) -> None:
    _a, b = await cluster.silenced()
    assert await cluster.answered("a", "m") == "a"
    cluster.machines["b"].stuck = Unavailable("the engine hangs")
    b.regain_store()
    await cluster.round()
    await b.loop.tick()
    assert [stray.model for stray in b.store.nodes.strays("b")] == ["m"]
    cluster.machines["b"].stuck = None
    await cluster.until(lambda: cluster.running("m") == ["a"])
