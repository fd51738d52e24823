"""The good end of a load: what is stored, told, and opened."""

from __future__ import annotations

import pytest

from modelium.errors import ModeliumError
from modelium.models import LoadSettings, Preference, Report, RuntimeName, Upstream
from modelium.ports import Loaded
from modelium.stages import ready as readying
from modelium.stages.opening import open_model, routed
from modelium.stages.ready import finish, load_report
from tests.fakes import fleets
from tests.fakes.devices import CPU
from tests.fakes.runtime import upstream
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
    background,
    booked,
    deployment_of,
    events,
    ready,
    registered,
    scripted,
    setup,
    states,
)

pytestmark = pytest.mark.unfinished("models without files")

HERE = Loaded(upstream=upstream("tiny"), handle={"pid": 7})


async def test_a_loaded_model_is_stored_opened_and_told_of(world: World) -> None:
    other = CPU.model_copy(update={"uuid": "cpu-1", "index": 1})
    world.devices.devices = (other, CPU)
    registered(world)
    decision = booked(world)
    planned = deployment_of(world).settings
    report = await finish(world.services, "tiny", decision, HERE, seconds=3.14159)
    found = deployment_of(world)
    assert (found.upstream, found.handle, found.settings) == (upstream("tiny"), {"pid": 7}, planned)
    assert found.load_s == 3.14159
    assert found.ready_at == pytest.approx(world.clock.time(), abs=0.01)
    record = world.store.model("tiny")
    assert (record.reason, record.preference) == ("loaded on ray_serve in 3.1 s", None)
    assert report == Report(
        stage="load",
        outcome="ready",
        model="tiny",
        runtime=RuntimeName.RAY_SERVE,
        devices=(CPU.id,),
        reason=record.reason,
        details={"load_s": 3.14159},
    )
    told = {"version": 1, "devices": [CPU.label], "load_s": 3.142, **setup(world)}
    assert events(world, "model.ready") == [("tiny", told)]
    assert world.store.decisions.get(decision).outcome == "done"
    assert await world.request() == "tiny"
    assert (
        'modelium_load_duration_seconds_count{outcome="ready",runtime="ray_serve"} 1.0'
        in world.exposed()
    )


async def test_a_load_that_another_run_has_finished_is_confirmed(world: World) -> None:
    registered(world)
    ready(world)
    before = world.store.revision(), deployment_of(world)
    report = await finish(world.services, "tiny", None, HERE, seconds=9.0)
    assert (report.outcome, report.reason) == ("ready", "loaded on ray_serve in 3.0 s")
    assert (world.store.revision(), deployment_of(world)) == before
    assert world.heard == []


async def test_a_model_that_was_changed_while_it_was_loading_is_no_end_of_a_load(
    world: World,
) -> None:
    registered(world)
    with pytest.raises(ModeliumError, match="tiny has no deployment here any more"):
        await finish(world.services, "tiny", None, HERE, seconds=9.0)


async def test_what_was_reduced_is_preferred_the_next_time(world: World) -> None:
    registered(world)
    booked(world)
    less = LoadSettings(max_model_len=512, max_num_seqs=2, kv_cache_bytes=9)
    loaded = Loaded(upstream=upstream("tiny"), handle={}, settings=less)
    await finish(world.services, "tiny", None, loaded, seconds=1.0)
    reduced = "max_model_len 512, max_num_seqs 2, kv_cache_bytes 9"
    record = world.store.model("tiny")
    assert record.reason == f"loaded on ray_serve in 1.0 s with {reduced}, as more did not start"
    assert deployment_of(world).settings == less
    worked = LoadSettings(max_model_len=512, max_num_seqs=2)
    assert record.preference == Preference(runtime=RuntimeName.RAY_SERVE, settings=worked)
    ((_name, detail),) = events(world, "model.ready")
    assert detail["reduced"] == reduced


@pytest.mark.parametrize(
    ("planned", "effective", "text"),
    [
        ({}, {}, ""),
        ({"max_model_len": 9, "max_num_seqs": 4}, {"max_model_len": 9, "max_num_seqs": 4}, ""),
        ({"max_model_len": 9}, {"max_model_len": 8}, "max_model_len 8"),
        ({"kv_cache_bytes": 9}, {"kv_cache_bytes": 8}, "kv_cache_bytes 8"),
        ({"tensor_parallel_size": 2}, {"tensor_parallel_size": 1}, ""),
    ],
)
def test_a_reduction_names_what_differs(
    planned: dict[str, int], effective: dict[str, int], text: str
) -> None:
    assert readying._reduction(LoadSettings(**planned), LoadSettings(**effective)) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", [None, RuntimeName.VLLM, RuntimeName.TRITON])
def test_a_preference_keeps_what_was_preferred_of_the_same_runtime(
    runtime: RuntimeName | None,
) -> None:
    wanted = Preference(runtime=runtime, settings=LoadSettings(max_num_seqs=99, kv_cache_bytes=5))
    model = fleets.loaded("m", "n/g0", preference=wanted)
    assert model.deployment is not None
    worked = model.deployment.model_copy(
        update={"settings": LoadSettings(max_model_len=7, max_num_seqs=2)}
    )
    kept = readying._kept(model, worked)
    same = runtime is not RuntimeName.TRITON
    settings = LoadSettings(max_model_len=7, max_num_seqs=2, kv_cache_bytes=5 if same else None)
    assert kept == Preference(runtime=RuntimeName.VLLM, settings=settings)
    bare = model.model_copy(update={"preference": None})
    assert readying._kept(bare, worked).settings == LoadSettings(max_model_len=7, max_num_seqs=2)


def test_what_is_not_loaded_has_no_runtime_to_report() -> None:
    assert load_report(fleets.model("m"), "queued", "no room") == Report(
        stage="load", outcome="queued", model="m", reason="no room"
    )


@pytest.mark.parametrize("twin", [False, True])
async def test_a_newer_version_is_next_and_a_twin_takes_over(world: World, twin: bool) -> None:
    registered(world)
    if twin:
        ready(world)
        registered(world, version=2)
        world.store.twins.stand_by("tiny")
    name = "tiny@2" if twin else "tiny"
    booked(world, name)
    if not twin:
        registered(world, version=2)
    script = scripted(world)
    await finish(world.services, name, None, Loaded(upstream=upstream(name), handle={}), seconds=1)
    await background(world)
    assert script.stages() == ([] if twin else [("analyze", "tiny")])
    assert [name for name, _detail in events(world, "model.ready")] == ["tiny"]
    assert states(world) == ({"tiny": "ready", "tiny@1": "ready"} if twin else {"tiny": "ready"})
    assert deployment_of(world).version == (2 if twin else 1)


# --- opening --------------------------------------------------------------------------------------


async def test_only_what_serves_is_opened(world: World) -> None:
    registered(world)
    record = ready(world, opened=False)
    assert record.deployment is not None
    bare = record.deployment.model_copy(update={"upstream": None})
    assert routed(record, bare) is None
    world.store.lineage.begin_removal("tiny", by="me", purge=False)
    board = world.services.switchboard
    for model, deployment in (
        (record, bare),
        (record.model_copy(update={"twin_of": "base"}), record.deployment),
        (world.store.model("tiny"), record.deployment),
    ):
        open_model(world.services, model, deployment)
        assert board.upstream("tiny") is None
    deployment = record.deployment.model_copy(update={"version": 4})
    open_model(world.services, record, deployment)
    where: Upstream | None = board.upstream("tiny")
    assert where == routed(record, deployment) and board.answers("tiny").version == 4
