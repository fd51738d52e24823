"""What loaded models really hold is attributed, recorded, and replaces the estimate."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    Deployment,
    Device,
    DeviceProcess,
    Fleet,
    LoadSettings,
    RuntimeName,
    RuntimeStatus,
)
from modelium.ports import EngineStats, Running
from modelium.stages import measurement
from modelium.stages.measurement import FRESH_S
from modelium.stages.monitor import monitor
from modelium.stages.runtime_monitor import Observation
from tests.fakes import fleets
from tests.modelium.conftest import World

PROCESSES = (
    DeviceProcess(pid=7, used_bytes=6 * GIB),
    DeviceProcess(pid=8, used_bytes=2 * GIB),
    DeviceProcess(pid=9, used_bytes=1 * GIB),
)
GPU = Device(
    node="here",
    uuid="GPU-0",
    kind="gpu",
    name="H100",
    total_bytes=80 * GIB,
    free_bytes=70 * GIB,
    processes=PROCESSES,
)
AT = 1_000_000.0
PLACE = ("m", GPU.id)


def fleet(
    device: Device = GPU, *, resident: int | None = 0, age_s: float = 0.0, **given: Any
) -> Fleet:
    """One loaded model that became ready ``age_s`` ago."""
    deployment = Deployment(
        model="m",
        version=1,
        runtime=RuntimeName.VLLM,
        devices=(device.id,),
        settings=LoadSettings(),
        started_at=0.0,
        load_s=3.0,
    )
    fields: dict[str, Any] = {
        "state": ModelState.READY,
        "state_since": AT - age_s,
        "deployment": deployment,
    }
    return Fleet(
        at=AT,
        revision=1,
        devices=(device,),
        models=(fleets.model("m", **(fields | given)),),
        bookings=(Booking(model="m", device=device.id, bytes=10 * GIB, resident_bytes=resident),),
    )


def sight(*pids: int, stats: EngineStats | None = None) -> dict[RuntimeName, Observation]:
    status = RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True)
    running = Running(model="m", state="ready", pids=pids)
    counters = {"m": stats} if stats else {}
    return {RuntimeName.VLLM: Observation(status=status, running=(running,), stats=counters)}


def test_memory_on_a_gpu_is_that_of_the_models_own_processes() -> None:
    assert measurement.resident_bytes(fleet(), sight(7, 8)) == {PLACE: 8 * GIB}


def test_a_model_whose_processes_the_driver_does_not_show_is_not_taken_to_hold_nothing() -> None:
    hidden = GPU.model_copy(update={"processes": ()})
    untold = GPU.model_copy(
        update={"processes": (DeviceProcess(pid=7, used_bytes=None), PROCESSES[1])}
    )
    unlisted = GPU.model_copy(update={"processes": None})
    for device in (hidden, untold, unlisted):
        assert measurement.resident_bytes(fleet(device, resident=None), sight(7, 8)) == {}
        # What its load took is known, and that was its own process.
        known = measurement.resident_bytes(fleet(device, resident=5 * GIB), sight(7, 8))
        assert known == {PLACE: 5 * GIB}
    # A server that holds many models has no process of this one.
    assert measurement.resident_bytes(fleet(resident=5 * GIB), sight()) == {}


def test_memory_on_a_cpu_is_what_the_runtime_reports() -> None:
    cpu = GPU.model_copy(update={"kind": "cpu", "uuid": "cpu", "processes": ()})
    seen = sight(stats=EngineStats(resident_bytes=5))
    assert measurement.resident_bytes(fleet(cpu), seen) == {("m", cpu.id): 5}


def test_a_model_that_its_runtime_does_not_list_is_not_measured() -> None:
    status = RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True)
    for running in ((), None):
        seen = {RuntimeName.VLLM: Observation(status=status, running=running)}
        assert measurement.resident_bytes(fleet(), seen) == {}


def test_only_memory_that_differs_from_the_booking_has_changed() -> None:
    assert measurement.changed(fleet(resident=4), {PLACE: 4}) == {}
    assert measurement.changed(fleet(resident=4), {PLACE: 5}) == {PLACE: 5}


def test_a_fresh_load_is_measured_although_its_memory_stands_still() -> None:
    found = measurement.fresh_loads(fleet(age_s=FRESH_S - 1), {PLACE: GIB}, {})
    assert found["m"].per_device_bytes == GIB
    assert (found["m"].device_kind, found["m"].load_s) == ("H100", 3.0)
    assert measurement.fresh_loads(fleet(age_s=FRESH_S + 1), {PLACE: GIB}, {}) == {}


def test_an_old_load_is_measured_again_when_its_memory_moves() -> None:
    old = fleet(age_s=FRESH_S + 1)
    assert measurement.fresh_loads(old, {PLACE: GIB}, {PLACE: GIB})["m"].per_device_bytes == GIB


def test_the_larger_measurement_stands() -> None:
    (first,) = measurement.fresh_loads(fleet(), {PLACE: 3 * GIB}, {}).values()
    known = fleet(measured=(first,))
    assert measurement.fresh_loads(known, {PLACE: 2 * GIB}, {PLACE: 2 * GIB}) == {}
    assert measurement.fresh_loads(known, {PLACE: 3 * GIB}, {PLACE: 3 * GIB}) == {}
    more = measurement.fresh_loads(known, {PLACE: 4 * GIB}, {PLACE: 4 * GIB})
    assert more["m"].per_device_bytes == 4 * GIB


@pytest.mark.parametrize("state", [ModelState.LOADING, ModelState.DRAINING])
def test_only_a_ready_model_is_measured(state: ModelState) -> None:
    assert measurement.fresh_loads(fleet(state=state), {PLACE: GIB}, {PLACE: GIB}) == {}


async def test_resident_memory_is_recorded_and_measured(world: World) -> None:
    await world.load()
    await monitor(world.services)
    _revision, (record,), (booking,) = world.store.view()
    assert booking.resident_bytes == 50_000_000
    assert record.measured[0].per_device_bytes == 50_000_000


async def test_memory_that_was_full_before_the_model_was_ready_is_measured_too(
    world: World,
) -> None:
    await world.load()
    (booking,) = world.store.view()[2]
    world.store.history.record_memory({("tiny", booking.device): 50_000_000}, {})
    await monitor(world.services)
    assert world.store.model("tiny").measured[0].per_device_bytes == 50_000_000


def test_idle_memory_in_the_kv_cache_is_not_the_models_need() -> None:
    world = fleet()
    (model,) = world.models
    assert model.deployment is not None
    wide = model.deployment.model_copy(
        update={"settings": LoadSettings(kv_cache_bytes=6 * GIB, extra_kv_bytes=5 * GIB)}
    )
    world = world.model_copy(update={"models": (model.model_copy(update={"deployment": wide}),)})
    found = measurement.fresh_loads(world, {PLACE: 15 * GIB}, {PLACE: 15 * GIB})
    assert found["m"].per_device_bytes == 10 * GIB


# --- several models and devices -------------------------------------------------------------------

NEXT = GPU.model_copy(update={"uuid": "GPU-1", "processes": (DeviceProcess(pid=7, used_bytes=5),)})


def spread(*names: str, **given: Any) -> Fleet:
    """Models that are ready on two GPUs each, and booked there."""
    models, bookings = [], []
    for name in names:
        (model,) = fleet(**given).models
        assert model.deployment is not None
        deployment = model.deployment.model_copy(
            update={"model": name, "devices": (GPU.id, NEXT.id)}
        )
        models.append(model.model_copy(update={"name": name, "deployment": deployment}))
        bookings += [
            Booking(model=name, device=d.id, bytes=9, resident_bytes=0) for d in (GPU, NEXT)
        ]
    return Fleet(
        at=AT, revision=1, devices=(GPU, NEXT), models=tuple(models), bookings=tuple(bookings)
    )


def test_memory_is_attributed_on_each_device() -> None:
    assert measurement.resident_bytes(spread("m"), sight(7, 8)) == {
        ("m", GPU.id): 8 * GIB,
        ("m", NEXT.id): 5,
    }


def test_what_cannot_be_attributed_hides_nothing_else() -> None:
    """Each of these is skipped alone."""
    whole = spread("gone", "not-loaded", "silent", "m")
    (gone, idle, silent, own) = whole.models
    models = (idle.model_copy(update={"deployment": None}), silent, own)
    elsewhere = Booking(model="m", device="here/GPU-9", bytes=9, resident_bytes=0)
    world = whole.model_copy(update={"models": models, "bookings": (elsewhere, *whole.bookings)})
    assert gone.name not in world.models_by_name
    found = measurement.resident_bytes(world, sight(7, 8))
    assert found == {("m", GPU.id): 8 * GIB, ("m", NEXT.id): 5}
    hidden = NEXT.model_copy(update={"processes": None})
    world = spread("m").model_copy(update={"devices": (hidden, GPU)})
    world = world.model_copy(
        update={
            "bookings": tuple(
                b.model_copy(update={"resident_bytes": None}) for b in reversed(world.bookings)
            )
        }
    )
    assert measurement.resident_bytes(world, sight(7, 8)) == {("m", GPU.id): 8 * GIB}


@pytest.mark.parametrize(
    ("stats", "pids", "held"),
    [
        (EngineStats(resident_bytes=5), (7,), 5),
        (EngineStats(resident_bytes=0), (7,), 0),
        (EngineStats(), (7, 8), 15),
        (None, (7, 8), 15),
        (None, (), 0),
    ],
)
def test_memory_on_a_cpu_is_that_of_its_processes_where_the_runtime_tells_none(
    stats: EngineStats | None, pids: tuple[int, ...], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement.processes, "resident_bytes", lambda pid: pid)
    cpu = GPU.model_copy(update={"kind": "cpu", "uuid": "cpu", "processes": PROCESSES})
    assert measurement.resident_bytes(fleet(cpu), sight(*pids, stats=stats)) == {
        ("m", cpu.id): held
    }


def test_a_load_is_measured_by_its_fullest_device() -> None:
    world = spread("m", age_s=FRESH_S + 1)
    resident = {("m", GPU.id): 3, ("m", NEXT.id): 7}
    assert measurement.fresh_loads(world, resident, resident)["m"].per_device_bytes == 7
    moved = {("m", GPU.id): 3}
    assert measurement.fresh_loads(world, resident, moved)["m"].per_device_bytes == 3


@pytest.mark.parametrize(("age_s", "measured"), [(FRESH_S - 0.1, True), (FRESH_S, False)])
def test_a_load_is_fresh_for_so_long(age_s: float, measured: bool) -> None:
    found = measurement.fresh_loads(fleet(age_s=age_s), {PLACE: GIB}, {})
    assert ("m" in found) is measured


def test_a_model_that_is_not_measured_hides_no_other() -> None:
    whole = spread("a", "b", "c", "d", "e", "m")
    (a, b, c, d, e, m) = whole.models
    assert a.deployment is not None and d.deployment is not None
    models = (
        a.model_copy(update={"state": ModelState.DRAINING}),
        b.model_copy(update={"deployment": None}),
        c.model_copy(update={"deployment": a.deployment.model_copy(update={"devices": ()})}),
        d.model_copy(
            update={"deployment": d.deployment.model_copy(update={"devices": ("here/GPU-9",)})}
        ),
        e,
        m,
    )
    world = whole.model_copy(update={"models": models})
    resident = {(name, GPU.id): 5 for name in "abcdm"} | {("e", GPU.id): 0}
    resident[("d", "here/GPU-9")] = 5
    assert set(measurement.fresh_loads(world, resident, resident)) == {"m"}


def test_another_load_of_the_model_says_nothing_about_this_one() -> None:
    (known,) = measurement.fresh_loads(fleet(), {PLACE: 3 * GIB}, {}).values()
    for other in (
        {"runtime": RuntimeName.RAY_SERVE},
        {"device_kind": "A100"},
        {"settings_digest": "another"},
    ):
        world = fleet(measured=(known.model_copy(update=other),))
        assert measurement.fresh_loads(world, {PLACE: GIB}, {}) == {
            "m": known.model_copy(update={"per_device_bytes": GIB})
        }
    assert measurement.fresh_loads(fleet(measured=(known,)), {PLACE: GIB}, {}) == {}


def test_a_measurement_has_the_time_and_never_less_than_a_byte() -> None:
    world = fleet()
    (model,) = world.models
    assert model.deployment is not None
    bare = model.deployment.model_copy(
        update={"load_s": None, "settings": LoadSettings(kv_cache_bytes=9, extra_kv_bytes=9)}
    )
    world = world.model_copy(update={"models": (model.model_copy(update={"deployment": bare}),)})
    (found,) = measurement.fresh_loads(world, {PLACE: 9}, {}).values()
    assert (found.per_device_bytes, found.load_s, found.at) == (1, 0.0, AT)
