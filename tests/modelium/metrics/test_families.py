"""The gauges of a fleet."""

from __future__ import annotations

import math

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Booking,
    Device,
    RuntimeName,
    RuntimeStatus,
    Traffic,
)
from tests.modelium.metrics.conftest import AT, at, gpu, model, shown


def test_the_seeds_five_series_have_its_names_labels_and_units() -> None:
    device = gpu(2, used=30 * GIB, busy=0.75)
    traffic = Traffic(
        qps=1.5,
        latency_p50_s=0.2,
        latency_p99_s=0.9,
        first_request_at=AT - 90,
        last_request_at=AT - 30,
    )
    series = shown(model("gpt2", device, traffic=traffic), devices=(device,))
    where = at(model="gpt2", runtime="vllm", gpu="2")
    assert series["modelium_model_qps"] == {where: 1.5}
    assert series["modelium_model_latency"] == {where: 0.2}
    assert series["modelium_gpu_memory_used"] == {at(gpu="2"): 30 * GIB}
    assert series["modelium_gpu_utilization"] == {at(gpu="2"): 0.75}
    assert series["modelium_model_idle_seconds"] == {at(model="gpt2"): 30.0}
    assert series["modelium_model_latency_p99_seconds"] == {where: 0.9}


def test_a_cpu_device_is_labelled_by_its_id() -> None:
    cpu = Device(node="box", uuid="cpu", kind="cpu", total_bytes=GIB, free_bytes=GIB)
    series = shown(model("m", cpu), devices=(cpu,))
    assert at(model="m", runtime="vllm", gpu="box/cpu") in series["modelium_model_qps"]
    assert at(gpu="box/cpu") in series["modelium_gpu_memory_used"]
    assert "modelium_gpu_utilization" not in series


def test_a_model_on_several_gpus_is_counted_once() -> None:
    devices = (gpu(1), gpu(0))
    series = shown(model("m", *devices, traffic=Traffic(qps=4.0)), devices=devices)
    assert series["modelium_model_qps"] == {at(model="m", runtime="vllm", gpu="0,1"): 4.0}


def test_gpus_of_one_index_on_several_nodes_stay_apart() -> None:
    devices = (gpu(0, node="a"), gpu(0, node="b"), gpu(1, node="b"))
    series = shown(model("m", devices[1]), devices=devices)
    assert set(series["modelium_gpu_memory_used"]) == {at(gpu="a/0"), at(gpu="b/0"), at(gpu="1")}
    assert at(model="m", runtime="vllm", gpu="b/0") in series["modelium_model_qps"]


def test_a_model_that_is_not_loaded_shows_its_demand_and_no_idling() -> None:
    wanted = model("wanted", traffic=Traffic(qps=0.5, pending=3, first_request_at=AT - 1))
    series = shown(wanted, model("never-asked-for"))
    assert series["modelium_model_qps"] == {at(model="wanted", runtime="none", gpu="none"): 0.5}
    assert series["modelium_model_requests_pending"][at(model="wanted")] == 3
    assert "modelium_model_idle_seconds" not in series
    assert series["modelium_model_state"] == {
        at(model="wanted", state="unloaded"): 1,
        at(model="never-asked-for", state="unloaded"): 1,
    }


def test_state_queue_requests_and_failures() -> None:
    queued = [
        model("q1", state=ModelState.QUEUED, queued_at=AT - 50),
        model("q2", state=ModelState.QUEUED, queued_at=AT - 10),
    ]
    broken = model("f", state=ModelState.FAILED, failures=3)
    used = model("u", gpu(0), traffic=Traffic(completed=7, failed=2, in_flight=1))
    series = shown(*queued, broken, used)
    assert series["modelium_queue_length"] == {at(): 2}
    assert series["modelium_queue_oldest_seconds"] == {at(): 50}
    assert series["modelium_model_state"][at(model="f", state="failed")] == 1
    assert series["modelium_model_load_failures"][at(model="f")] == 3
    assert series["modelium_models"][at(state="queued")] == 2
    assert series["modelium_models"][at(state="loading")] == 0
    requests = series["modelium_model_requests_total"]
    assert requests[at(model="u", outcome="completed")] == 7
    assert requests[at(model="u", outcome="failed")] == 2
    assert series["modelium_model_requests_in_flight"][at(model="u")] == 1


def test_empty_queue_has_no_age() -> None:
    assert shown()["modelium_queue_oldest_seconds"] == {at(): 0}


def test_booked_and_measured_memory_health_and_runtimes() -> None:
    device, sick = gpu(0, used=25 * GIB), gpu(1).model_copy(update={"healthy": False})
    bookings = (
        Booking(model="a", device=device.id, bytes=20 * GIB, resident_bytes=19 * GIB),
        Booking(model="b", device=device.id, bytes=5 * GIB),
    )
    runtimes = (
        RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True),
        RuntimeStatus(name=RuntimeName.TRITON, enabled=True, healthy=False),
        RuntimeStatus(name=RuntimeName.RAY_SERVE, enabled=False, healthy=False),
    )
    series = shown(devices=(device, sick), bookings=bookings, runtimes=runtimes)
    assert series["modelium_gpu_memory_booked_bytes"][at(gpu="0")] == 25 * GIB
    assert series["modelium_gpu_memory_resident_bytes"][at(gpu="0")] == 19 * GIB
    assert series["modelium_gpu_memory_total_bytes"][at(gpu="0")] == 80 * GIB
    assert series["modelium_gpu_healthy"] == {at(gpu="0"): 1, at(gpu="1"): 0}
    assert series["modelium_runtime_up"] == {at(runtime="vllm"): 1, at(runtime="triton"): 0}
    assert series["modelium_snapshot_timestamp_seconds"] == {at(): AT}


def test_every_value_is_a_number() -> None:
    device = gpu(0)
    for series in shown(model("m", device), devices=(device,)).values():
        assert not any(math.isnan(value) for value in series.values())


def test_memory_of_models_and_how_far_the_estimate_was_off() -> None:
    one, two = gpu(0), gpu(1)
    models = (
        model("generous", one, two),
        model("tight", one),
        model("loading", one, state=ModelState.LOADING),
    )
    bookings = (
        Booking(model="generous", device=one.id, bytes=6 * GIB, resident_bytes=4 * GIB),
        Booking(model="generous", device=two.id, bytes=6 * GIB, resident_bytes=4 * GIB),
        Booking(model="tight", device=one.id, bytes=8 * GIB, resident_bytes=10 * GIB),
        Booking(model="loading", device=one.id, bytes=8 * GIB, resident_bytes=1 * GIB),
    )
    series = shown(*models, devices=(one, two), bookings=bookings)
    assert series["modelium_model_memory_booked_bytes"][at(model="generous")] == 12 * GIB
    assert series["modelium_model_memory_resident_bytes"][at(model="generous")] == 8 * GIB
    assert series["modelium_model_memory_estimate_error"] == {
        at(model="generous", runtime="vllm"): 0.5,
        at(model="tight", runtime="vllm"): pytest.approx(-0.2),
    }, "one that loads has not grown to its size yet"


def test_direct_requests_are_shown_apart() -> None:
    series = shown(model("m", gpu(0), traffic=Traffic(completed=5, direct=2)))
    assert series["modelium_model_requests_direct_total"] == {at(model="m"): 2}


def test_the_work_of_a_model() -> None:
    traffic = Traffic(
        gpu_utilization=0.75,
        ended_per_s=2.0,
        prompt_tokens=500,
        generated_tokens=100,
        prompt_tokens_per_s=50.0,
        generated_tokens_per_s=10.0,
        queue_s=0.5,
        queued=3,
    )
    series = shown(model("m", gpu(2), traffic=traffic), devices=(gpu(2),))
    where = {"model": "m", "runtime": "vllm", "gpu": "2"}
    assert series["modelium_model_gpu_utilization"] == {at(**where): 0.75}
    assert series["modelium_model_requests_per_second"] == {at(**where): 2.0}
    assert series["modelium_model_tokens_per_second"] == {
        at(**where, kind="prompt"): 50.0,
        at(**where, kind="generated"): 10.0,
    }
    assert series["modelium_model_tokens_total"] == {
        at(model="m", kind="prompt"): 500,
        at(model="m", kind="generated"): 100,
    }
    assert series["modelium_model_queue_seconds"] == {at(**where): 0.5}
    assert series["modelium_model_requests_queued"] == {at(model="m"): 3}


def test_what_nobody_knows_of_a_models_work_is_absent() -> None:
    series = shown(model("m", gpu(0)), devices=(gpu(0),))
    for name in ("gpu_utilization", "tokens_per_second", "tokens_total", "queue_seconds"):
        assert f"modelium_model_{name}" not in series
    gone = shown(model("m", traffic=Traffic(queue_s=0.5, queued=1, generated_tokens=3)))
    assert "modelium_model_queue_seconds" not in gone
    assert "modelium_model_requests_queued" not in gone
    assert "modelium_model_requests_per_second" not in gone
    assert gone["modelium_model_tokens_total"][at(model="m", kind="generated")] == 3
