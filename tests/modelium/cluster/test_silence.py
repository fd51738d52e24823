"""A silent node is unknown, not empty."""

from __future__ import annotations

import pytest

from modelium.errors import InputError, NotPlanner, Unavailable
from modelium.lifecycle import ModelState
from modelium.models import Plan, Trigger
from modelium.models.nodes import FENCED_S, SILENT_S
from modelium.stages.monitor import SETTLE_S
from modelium.store.planner_lease import TTL_S
from tests.nodes.cluster import Cluster

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("postgresql")]


def loads(cluster: Cluster, node: str) -> list[str]:
    """Return the models that ``node`` was told to load, in order."""
    return [name.partition("@")[0] for _at, name in cluster.machines[node].begun]


async def test_a_request_at_any_node_loads_the_model_where_there_is_room(cluster: Cluster) -> None:
    await cluster.add("a")
    await cluster.add("b")
    cluster.register("m", "n")
    assert {await cluster.answered("b", "m"), await cluster.answered("a", "n")} == {"a", "b"}
    for name in ("m", "n"):
        [node] = cluster.running(name)
        assert cluster.model(name).deployment.node == node  # type: ignore[union-attr]
        assert await cluster.answered("a", name) == await cluster.answered("b", name) == node


async def test_a_partitioned_node_keeps_its_models_and_is_asked_on(cluster: Cluster) -> None:
    await cluster.add("a")
    b = await cluster.add("b")
    cluster.place("m", "b")
    assert await cluster.answered("a", "m") == "b"
    b.lose_store()
    await cluster.live(3 * SILENT_S)
    assert cluster.model("m").state is ModelState.READY
    assert await cluster.answered("a", "m") == "b"
    assert await cluster.answered("b", "m") == "b"
    b.regain_store()
    await cluster.live(SILENT_S)
    assert cluster.model("m").deployment.node == "b"  # type: ignore[union-attr]
    assert loads(cluster, "a") == loads(cluster, "b") == []


async def test_requests_that_wait_have_a_copy_loaded_elsewhere_and_the_first_one_is_ended(
    cluster: Cluster,
) -> None:
    a, b = await cluster.silenced()
    assert await cluster.answered("a", "m") == "a"
    assert cluster.running("m") == ["a", "b"]
    b.regain_store()
    await cluster.until(lambda: cluster.running("m") == ["a"])
    await cluster.until(lambda: not a.store.nodes.strays("b"))
    assert cluster.model("m").deployment.node == "a"  # type: ignore[union-attr]
    assert await cluster.answered("b", "m") == "a"


async def test_nothing_is_loaded_on_a_node_that_returns_before_its_strays_are_gone(
    cluster: Cluster,
) -> None:
    a, b = await cluster.silenced()
    await cluster.answered("a", "m")
    b.regain_store()
    await b.membership.beat()
    [node] = [node for node in a.store.nodes.all() if node.name == "b"]
    assert not node.silent
    assert not node.placeable
    await cluster.until(lambda: cluster.running("m") == ["a"])


async def test_a_service_that_died_adopts_what_its_machine_still_runs(cluster: Cluster) -> None:
    await cluster.add("a")
    await cluster.add("b")
    cluster.place("m", "b")
    await cluster.round()
    await cluster.down("b")
    await cluster.live(2 * SILENT_S)
    assert cluster.model("m").state is ModelState.READY
    await cluster.up("b")
    assert await cluster.answered("b", "m") == "b"
    assert loads(cluster, "b") == []


async def test_a_node_reborn_with_an_empty_disk_needs_a_token_and_loads_its_models_anew(
    cluster: Cluster,
) -> None:
    a = await cluster.add("a")
    await cluster.add("b")
    cluster.place("m", "b")
    await cluster.round()
    await cluster.down("b")
    machine = cluster.machines["b"]
    machine.secret, machine.held = "another one", {}
    with pytest.raises(InputError, match="another machine joined this store as 'b'"):
        await cluster.up("b")
    await cluster.up("b", token=a.store.nodes.issue_token())
    await cluster.live(SETTLE_S + 2.5)
    assert await cluster.answered("a", "m") in ("a", "b")


async def test_a_stopped_planner_cannot_act_when_it_wakes(cluster: Cluster) -> None:
    a = await cluster.add("a")
    b = await cluster.add("b")
    cluster.register("m")
    await cluster.round()
    cluster.stop("a")
    await cluster.live(TTL_S + 2.5)
    assert b.services.store.plans
    revision = a.store.revision()
    plan = Plan(author="rules", trigger=Trigger.SWEEP, revision=revision, reason="-", at=0.0)
    with pytest.raises(NotPlanner):
        a.store.accept(plan, snapshot_digest="-", trace={})
    assert a.store.revision() == revision
    cluster.go_on("a")
    await cluster.answered("a", "m")
    assert cluster.planners() == ["b"]


async def test_a_standby_plans_within_fifteen_seconds(cluster: Cluster) -> None:
    await cluster.add("a")
    await cluster.add("b")
    cluster.register("m")
    await cluster.round()
    await cluster.down("a")
    await cluster.live(15.0)
    assert cluster.planners() == ["b"]
    await cluster.live(2.5)  # a is silent by now
    assert await cluster.answered("b", "m") == "b"


async def test_a_node_on_a_slow_link_keeps_its_models_and_begins_nothing_unheard(
    cluster: Cluster,
) -> None:
    await cluster.add("a")
    b = await cluster.add("b")
    cluster.place("m", "b")
    await cluster.round()
    for _ in range(5):
        cluster.stop("b")
        await cluster.live(FENCED_S + 2)
        cluster.go_on("b")
        await cluster.round()
    assert cluster.model("m").deployment.node == "b"  # type: ignore[union-attr]
    cluster.advance(FENCED_S + 1)
    with pytest.raises(Unavailable, match="has not reached the store for 1"):
        b.services.heartbeat.check(b.clock.monotonic())


@pytest.mark.parametrize("off_s", [-600.0, 600.0])
async def test_a_clock_that_is_minutes_off_changes_nothing(cluster: Cluster, off_s: float) -> None:
    await cluster.add("a")
    b = await cluster.add("b", off_s=off_s)
    cluster.register("m", "n")
    await cluster.answered("a", "m")
    await cluster.answered("b", "n")
    await cluster.live(2 * SILENT_S)
    for name in ("m", "n"):
        assert cluster.model(name).state is ModelState.READY
        assert abs(cluster.model(name).state_since - b.store.time()) < 60
    assert cluster.planners() == ["a"]
    assert not any(node.silent for node in b.store.nodes.all())


async def test_a_planner_that_missed_the_database_for_a_moment_answers_as_before(
    cluster: Cluster,
) -> None:
    a = await cluster.add("a")
    await cluster.add("b")
    cluster.register("m")
    await cluster.round()
    a.lose_store()
    await cluster.round()
    await cluster.round()
    a.regain_store()
    await cluster.round()
    assert cluster.planners() == ["a"]
    assert cluster.answers("a")
    assert await cluster.answered("b", "m") in ("a", "b")
