"""A model over several nodes is loaded, watched and ended as one."""

from __future__ import annotations

import asyncio

import pytest

from modelium.errors import FailureKind, LoadFailed, ModeliumError
from modelium.lifecycle import ModelState
from modelium.models import Deployment, LoadSettings, Node, NodeReport, RuntimeName
from modelium.models.parts import Part, PartState
from modelium.stages.evict import evict
from modelium.stages.load import load
from modelium.stages.monitor import reconcile
from modelium.stages.part_work import due
from modelium.stages.parts import POLL_S, addresses, trouble
from modelium.stages.unloading import UNLOAD_S
from tests.fakes.devices import CPU
from tests.modelium.conftest import World
from tests.modelium.stages.two_nodes import THERE, TwoNodes

pytestmark = pytest.mark.slow


def deployment(*devices: str, started_at: float = 1.0) -> Deployment:
    return Deployment(
        model="m", version=1, runtime=RuntimeName.VLLM, devices=devices or ("a/0", "b/0"),
        settings=LoadSettings(), started_at=started_at,
    )  # fmt: skip


def part(state: PartState, *, started_at: float = 1.0, **fields: object) -> Part:
    made = deployment(started_at=started_at)
    return Part(
        id="1", node="b", deployment=made, addresses=("x", "y"), port=9, state=state
    ).model_copy(update=fields)


def node(name: str, address: str | None) -> Node:
    return Node(name=name, silent_s=0.0, report=NodeReport(address=address))


# --- pure ---------------------------------------------------------------------------------


def test_the_nodes_meet_at_the_hosts_of_their_gateways_in_the_order_of_the_deployment() -> None:
    nodes = (node("b", "https://b.example:8443"), node("a", "http://[fd00::1]:8000"))
    assert addresses(nodes, ("a", "b")) == ("fd00::1", "b.example")


def test_a_node_without_an_address_is_named() -> None:
    with pytest.raises(LoadFailed, match=r"gateway\.advertise on b") as refused:
        addresses((node("a", "http://a:1"), node("b", None)), ("a", "b"))
    assert refused.value.kind is FailureKind.ENVIRONMENT


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([part("wanted")], ""),
        ([part("running")], ""),
        ([part("failed", detail="out of memory")], "part on b failed: out of memory"),
        ([], "part on b has ended"),
        ([part("running", started_at=0.5)], "part on b has ended"),
    ],
)
def test_a_model_answers_only_with_all_its_parts(parts: list[Part], why: str) -> None:
    assert why in trouble(parts, deployment())
    assert bool(why) == bool(trouble(parts, deployment()))


# --- two nodes -----------------------------------------------------------------------------


async def test_a_load_over_two_nodes_has_each_load_its_part(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    async with nodes.serving():
        await load(world.services, model="tiny", decision=decision)
        await nodes.part_is("running")
        first, second = world.runtime.requests[-1], nodes.other.requests[-1]
        assert first.span is not None and second.span is not None
        assert (first.span.rank, second.span.rank) == (0, 1)
        assert first.span.port == second.span.port
        assert first.span.addresses == second.span.addresses == ("127.0.0.1", "there.example")
        assert (first.devices, second.devices) == ((CPU,), (THERE,))
        assert set(second.reserve) == {THERE.id}
        assert nodes.state() is ModelState.READY
        assert await world.request() == "tiny"
        await evict(world.services, models=["tiny"])
        assert (nodes.state(), nodes.other.held) == (ModelState.UNLOADED, {})
        assert world.store.parts.of("tiny") == ()


async def test_memory_is_given_back_only_when_every_node_has_ended_its_part(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    async with nodes.serving():
        await load(world.services, model="tiny", decision=decision)
        await nodes.part_is("running")
        nodes.other.unload_gate.clear()
        world.clock.hurried = False
        leaving = asyncio.create_task(evict(world.services, models=["tiny"]))
        await nodes.part_is("ending")
        assert (nodes.state(), len(world.store.view()[2])) == (ModelState.UNLOADING, 2)
        world.clock.hurried = True
        world.clock.advance(POLL_S)
        nodes.other.unload_gate.set()
        await leaving
    assert world.store.view()[2] == ()


async def test_a_part_that_fails_ends_the_load_and_all_parts(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    world.runtime.gate.clear()
    nodes.other.failure = LoadFailed("no room", kind=FailureKind.OUT_OF_MEMORY)
    async with nodes.serving():
        with pytest.raises(LoadFailed, match="part on there failed: no room") as failed:
            await load(world.services, model="tiny", decision=decision)
    assert failed.value.kind is FailureKind.OUT_OF_MEMORY
    assert nodes.state() is ModelState.FAILED
    assert (world.store.view()[2], world.store.parts.of("tiny")) == ((), ())
    world.runtime.gate.set()


async def test_the_first_part_that_fails_ends_the_others(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    world.runtime.failure = LoadFailed("bad magic")
    async with nodes.serving():
        with pytest.raises(LoadFailed, match="bad magic"):
            await load(world.services, model="tiny", decision=decision)
    assert (nodes.other.held, world.store.parts.of("tiny")) == ({}, ())


async def test_a_part_that_dies_has_the_whole_model_loaded_anew(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    async with nodes.serving():
        await load(world.services, model="tiny", decision=decision)
        await nodes.part_is("running")
        del nodes.other.held["tiny"]
        await nodes.part_is("failed")
        await reconcile(world.services)
        await world.until("tiny", lambda model: model.state is not ModelState.READY)
        assert ("model.lost", "tiny") in world.kinds()
    assert world.runtime.held == {} or nodes.state() is not ModelState.READY


async def test_what_a_silent_node_runs_becomes_a_stray(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    async with nodes.serving():
        await load(world.services, model="tiny", decision=decision)
        await nodes.part_is("running")
    world.clock.hurried = False
    leaving = asyncio.create_task(evict(world.services, models=["tiny"]))
    await nodes.part_is("ending")
    nodes.heard(0)
    world.clock.hurried = True
    world.clock.advance(POLL_S)
    await leaving
    assert nodes.state() is ModelState.UNLOADED
    assert [stray.model for stray in world.store.nodes.strays("there")] == ["tiny"]


async def test_a_node_that_does_not_end_its_part_keeps_the_memory_booked(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    async with nodes.serving():
        await load(world.services, model="tiny", decision=decision)
        await nodes.part_is("running")
    with pytest.raises(ModeliumError, match=f"there did not end the part of tiny.*{UNLOAD_S:.0f}"):
        await evict(world.services, models=["tiny"])
    assert len(world.store.view()[2]) == 2
    async with nodes.serving():
        await world.converge()
        await world.settled("tiny", "unloaded")


async def test_no_engine_is_started_before_every_node_has_the_files(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision, before = nodes.booked(), world.runtime.loads
    world.clock.hurried = False
    loading = asyncio.create_task(load(world.services, model="tiny", decision=decision))
    await nodes.part_is("wanted")
    await world.clock.asleep()
    assert world.runtime.loads == before
    world.clock.hurried = True
    world.clock.advance(POLL_S)
    async with nodes.serving():
        await loading
    assert world.runtime.loads == before + 1
    await nodes.leave()


async def test_a_part_that_is_not_wanted_any_more_is_not_started(world: World) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    async with nodes.serving():
        await load(world.services, model="tiny", decision=decision)
        await nodes.part_is("running")
    (part,) = world.store.parts.of("tiny")
    before = nodes.other.loads
    world.store.parts.end("tiny")
    await nodes.work.load(part)
    assert nodes.other.loads == before
    await nodes.leave()


def test_a_part_whose_model_is_gone_or_loaded_anew_is_ended(world: World) -> None:
    assert due(part("running"), None, seen=True, running=None) == "end"


async def test_a_failed_load_stays_booked_while_a_node_has_not_ended_its_part(
    world: World,
) -> None:
    nodes = await TwoNodes.made(world)
    decision = nodes.booked()
    async with nodes.serving():
        loading = asyncio.create_task(load(world.services, model="tiny", decision=decision))
        world.runtime.gate.clear()
        await nodes.part_is("running")
    world.runtime.failure = LoadFailed("bad magic")
    world.runtime.gate.set()
    with pytest.raises(LoadFailed, match="bad magic"):
        await loading
    assert (nodes.state(), len(world.store.view()[2])) == (ModelState.LOADING, 2)
    async with nodes.serving():
        await world.converge()
        await world.settled("tiny", "queued")
    assert (world.store.view()[2], nodes.other.held) == ((), {})
