"""`modelium down` ends what the runtimes hold, and the store says so."""

import pytest

from modelium.control import teardown
from modelium.errors import LoadFailed, ModeliumError, Unavailable
from modelium.models import RuntimeName
from modelium.models.parts import Part
from tests.fakes.fleets import loaded
from tests.fakes.runtime import MemoryRuntime
from tests.modelium.conftest import World


async def ended(world: World, node: str = "here") -> list[str]:
    runtimes = world.services.runtimes.values()
    return await teardown.end(store=world.services.store, runtimes=runtimes, node=node, grace_s=0.0)


async def test_loaded_models_are_unloaded_and_their_memory_is_given_back(world: World) -> None:
    await world.load()
    assert await ended(world) == ["tiny"]
    record = world.store.model("tiny")
    assert (record.state.value, record.deployment) == ("unloaded", None)
    assert "modelium down" in record.reason
    assert not world.store.view()[2], "no booking stays"
    assert not world.runtime.held
    assert await ended(world) == []


async def test_a_load_in_progress_is_recorded_as_ended(world: World) -> None:
    world.runtime.gate.clear()
    await world.drop()
    await world.settled("tiny", "loading")
    assert await ended(world) == ["tiny"]
    assert world.store.model("tiny").state.value == "unloaded"


async def test_models_of_other_nodes_stay_loaded(world: World) -> None:
    await world.load()
    assert await ended(world, node="elsewhere") == []
    assert world.store.model("tiny").state.value == "ready"


async def test_the_node_that_answers_for_a_model_learns_that_a_part_of_it_was_ended(
    world: World,
) -> None:
    deployment = (await world.load()).deployment
    assert deployment is not None
    split = deployment.model_copy(update={"devices": ("here/0", "elsewhere/0")})
    part = Part(id="1", node="elsewhere", deployment=split, addresses=("a", "b"), port=1)
    world.store.parts.want([part])
    assert await ended(world, node="elsewhere") == []
    assert world.store.parts.of("tiny") == ()
    assert world.store.model("tiny").state.value == "ready"


async def test_models_of_a_runtime_that_is_configured_off_stay_recorded(world: World) -> None:
    await world.load()
    made = await teardown.end(store=world.services.store, runtimes=(), node="here", grace_s=0.0)
    assert made == []
    assert world.store.model("tiny").state.value == "ready"


async def test_nothing_is_recorded_where_a_runtime_cannot_be_ended(world: World) -> None:
    await world.load()
    world.runtime.end_failure = Unavailable("it does not answer")
    with pytest.raises(Unavailable):
        await ended(world)
    assert world.store.model("tiny").state.value == "ready"


async def test_all_runtimes_that_cannot_be_ended_are_named(world: World) -> None:
    first, second, third = MemoryRuntime(), MemoryRuntime(), MemoryRuntime()
    first.name, second.name, third.name = (
        RuntimeName.VLLM, RuntimeName.TRITON, RuntimeName.RAY_SERVE,
    )  # fmt: skip
    first.end_failure, second.end_failure = Unavailable("no answer"), LoadFailed("no rights")
    with pytest.raises(ModeliumError) as told:
        await teardown.end(
            store=world.services.store, runtimes=(first, second, third), node="here", grace_s=0.0
        )
    assert str(told.value) == "no answer; no rights"
    first.end_failure = None
    with pytest.raises(LoadFailed, match=r"^no rights$"):
        await teardown.end(
            store=world.services.store, runtimes=(first, second, third), node="here", grace_s=0.0
        )


@pytest.mark.parametrize("going", [False, True])
async def test_an_unload_in_progress_is_recorded_as_ended(world: World, going: bool) -> None:
    await world.load()
    if going:
        world.store.states.start_unloading("tiny", reason="asked")
    assert await ended(world) == ["tiny"]
    record = world.store.model("tiny")
    assert (record.state.value, record.evicted_at) == ("unloaded", None)
    assert record.reason == teardown.REASON


@pytest.mark.parametrize(
    ("devices", "here"),
    [
        (("here/GPU-1",), True),
        (("here/GPU-2", "elsewhere/GPU-1"), True),
        (("elsewhere/GPU-1", "here/GPU-2"), False),
        (("elsewhere/GPU-1",), False),
        (("here-2/GPU-1",), False),
        ((), False),
    ],
)
def test_a_deployment_is_on_the_node_of_its_first_device(
    devices: tuple[str, ...], here: bool
) -> None:
    deployment = loaded("a", "n/GPU-1").deployment
    assert deployment is not None
    given = deployment.model_copy(update={"devices": devices})
    assert teardown._is_on("here", given) is here
