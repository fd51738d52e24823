"""The index of rooms answers as a look at every device would, whatever the plan changes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.rules.device_groups import device_groups
from agents.rules.device_memory import DeviceMemory
from agents.rules.device_order import order
from agents.rules.room_index import Rooms
from agents.rules.victim_index import Victims
from modelium.models import GIB, Fleet
from tests.fakes.fleets import NOW, loaded, model, policy
from tests.fakes.node_fleets import node, over

SIZES = st.sampled_from([0, 5, 10, 30, 60])


@st.composite
def worlds(draw: st.DrawFn) -> Fleet:
    nodes = [node(name) for name in "abc"]
    models = tuple(
        loaded(f"m-{each.name}{i}", f"{each.name}/g{i}", gib=size)
        for each in nodes
        for i in range(3)
        for size in [draw(SIZES)]
        if size
    )
    world = over(*nodes, models=models, gpus=3)
    busy = draw(st.lists(st.sampled_from([0.0, 0.3, 0.95]), min_size=9, max_size=9))
    if draw(st.booleans()):
        devices = zip(world.devices, busy, strict=True)
        used = tuple(d.model_copy(update={"utilization": share}) for d, share in devices)
        world = world.model_copy(update={"devices": used})
    return world


@settings(max_examples=60, deadline=None)
@given(world=worlds(), data=st.data())
def test_the_best_device_is_that_of_a_look_at_all(world: Fleet, data: st.DataObject) -> None:
    memory = DeviceMemory(fleet=world, policy=policy(), now=NOW, value=lambda _: 1.0)
    (group,) = device_groups(world.devices)
    rooms = Rooms(group=group, memory=memory, way="pack")
    victims = Victims(group=group, memory=memory, may_evict=lambda _: True)
    changes = data.draw(st.lists(st.integers(0, 8), max_size=4))
    for turn, place in enumerate([*changes, -1]):
        need = data.draw(SIZES) * GIB + 1
        able = [d for d in world.devices if memory.room(d.id) >= need]
        found = rooms.best(need, 1)
        if not able:
            assert found is None
        else:
            assert found is not None
            free = {
                each.name: sum(memory.room(d.id) for d in world.devices if d.node == each.name)
                for each in world.nodes
            }
            best = min(able, key=lambda d: (*order(d, memory.room(d.id))[:4], free[d.node], d.id))
            assert found[0] == [best]
        fits = {
            d.id
            for d in world.devices
            if memory.ledger(d.id).room(m.name for m in memory.evictable(d.id)) >= need
        }
        assert fits <= {d.id for d in victims.devices(need)}, "none that may fit is left out"
        if place >= 0:
            device = world.devices[place].id
            held = [m for m in memory.evictable(device)]
            if held and turn % 2:
                memory.unload(held[0])
            else:
                memory.load(model(f"new{turn}"), (device,), GIB)
