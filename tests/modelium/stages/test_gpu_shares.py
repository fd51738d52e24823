"""The share of its GPUs' time that each model uses."""

from __future__ import annotations

import pytest

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
from modelium.ports import Running
from modelium.stages.gpu_shares import gpu_shares
from modelium.stages.runtime_monitor import Observation
from tests.fakes import fleets

VLLM, TRITON = RuntimeName.VLLM, RuntimeName.TRITON


def gpu(
    uuid: str = "a", *, busy: float | None = 0.8, shares: dict[int, float | None] | None = None
) -> Device:
    listed = tuple(DeviceProcess(pid=p, used_bytes=GIB, utilization=u) for p, u in shares.items()) \
        if shares is not None else None  # fmt: skip
    return Device(
        node="n", uuid=uuid, kind="gpu", total_bytes=80 * GIB, free_bytes=GIB, utilization=busy,
        processes=listed,
    )  # fmt: skip


def told(
    *devices: Device, pids: tuple[int, ...] = (7,), beside: str = "", runtime: RuntimeName = VLLM
) -> float | None:
    """Return the share of ``m``, loaded on ``devices``; ``beside``: another model has a booking."""
    deployment = Deployment(
        model="m", version=1, runtime=runtime, devices=tuple(d.id for d in devices),
        settings=LoadSettings(), started_at=0.0,
    )  # fmt: skip
    fleet = Fleet(
        at=0.0,
        revision=1,
        devices=devices,
        models=(fleets.model("m", deployment=deployment), fleets.model("idle")),
        bookings=tuple(
            Booking(model=name, device=device.id, bytes=GIB)
            for device in devices
            for name in filter(None, ("m", beside))
        ),
    )
    seen = Observation(
        status=RuntimeStatus(name=runtime, enabled=True, healthy=True),
        running=(Running(model="m", state="ready", pids=pids),),
    )
    found = gpu_shares(fleet, {runtime: seen})
    assert set(found) == {"m"}
    return found["m"]


def test_a_models_share_is_that_of_its_own_processes() -> None:
    device = gpu(shares={7: 0.25, 8: 0.5, 9: 0.1})
    assert told(device, pids=(7, 8), beside="other") == 0.75
    assert told(gpu(shares={7: 0.75, 8: 0.5}), pids=(7, 8)) == 1.0
    assert told(gpu(shares={7: 0.0}), pids=(7,)) == 0.0


def test_a_model_on_several_gpus_has_the_mean() -> None:
    assert told(gpu("a", shares={7: 0.5}), gpu("b", shares={7: 1.0})) == 0.75
    assert told(gpu("a", shares={7: 0.5}), gpu("b", shares={7: None}), beside="o") is None


@pytest.mark.parametrize("shares", [{7: None}, {}, None])
def test_without_shares_by_process_a_gpus_utilization_is_that_of_its_only_model(
    shares: dict[int, float | None] | None,
) -> None:
    device = gpu(shares=shares)
    assert told(device) == 0.8
    assert told(device, beside="other") is None


def test_a_foreign_process_leaves_it_open_who_works() -> None:
    assert told(gpu(shares={7: None, 9: None})) is None


def test_a_server_that_holds_many_models_tells_nothing_of_one() -> None:
    device = gpu(shares={7: 0.3})
    assert told(device, runtime=TRITON) == 0.8
    assert told(device, runtime=TRITON, beside="other") is None


def test_nothing_is_known_on_a_cpu_or_of_a_model_that_the_runtime_does_not_list() -> None:
    cpu = gpu(shares={7: 0.3}).model_copy(update={"kind": "cpu"})
    assert told(cpu) is None
    device = gpu(shares={7: 0.3})
    deployment = Deployment(
        model="m", version=1, runtime=VLLM, devices=(device.id, "n/gone"),
        settings=LoadSettings(), started_at=0.0,
    )  # fmt: skip
    fleet = Fleet(
        at=0.0, revision=1, devices=(device,), models=(fleets.model("m", deployment=deployment),)
    )
    assert gpu_shares(fleet, {}) == {"m": None}
    nowhere = deployment.model_copy(update={"devices": ()})
    bare = fleet.model_copy(update={"models": (fleets.model("m", deployment=nowhere),)})
    assert gpu_shares(bare, {}) == {"m": None}
