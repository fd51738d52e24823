"""The seed's series by name and label, and what operators alert on."""

from __future__ import annotations

import math
import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelium.errors import ConfigError
from modelium.lifecycle import ModelState
from modelium.metrics import Metrics
from modelium.models import (
    GIB,
    Booking,
    Deployment,
    Device,
    Fleet,
    LoadSettings,
    Model,
    RuntimeName,
    RuntimeStatus,
    Traffic,
)

AT = 10_000.0

Labels = frozenset[tuple[str, str]]


def gpu(index: int, *, node: str = "n1", used: int = 0, busy: float | None = 0.25) -> Device:
    return Device(
        node=node,
        uuid=f"GPU-{index}",
        kind="gpu",
        index=index,
        total_bytes=80 * GIB,
        free_bytes=80 * GIB - used,
        utilization=busy,
    )


def model(name: str, *devices: Device, traffic: Traffic | None = None, **more: object) -> Model:
    deployment = Deployment(
        model=name,
        version=1,
        runtime=RuntimeName.VLLM,
        devices=tuple(d.id for d in devices),
        settings=LoadSettings(),
        started_at=AT - 200,
        ready_at=AT - 100,
    )
    return Model(
        name=name,
        path=f"/r/{name}",
        state=ModelState.READY if devices else ModelState.UNLOADED,
        state_since=AT - 100,
        registered_at=0,
        deployment=deployment if devices else None,
        traffic=traffic or Traffic(),
    ).model_copy(update=more)


def fleet(*models: Model, devices: tuple[Device, ...] = (), **more: object) -> Fleet:
    return Fleet(at=AT, revision=1, models=models, devices=devices).model_copy(update=more)


def read(metrics: Metrics) -> dict[str, dict[Labels, float]]:
    """Series by name and labels, as Prometheus' own parser reads them."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            labels = frozenset(sample.labels.items())
            assert labels not in series, f"{sample.name} twice with {labels}"
            series[labels] = sample.value
    return found


def at(**labels: str) -> Labels:
    return frozenset(labels.items())


def shown(*args: Model, **more: object) -> dict[str, dict[Labels, float]]:
    metrics = Metrics()
    metrics.observe(fleet(*args, **more))  # type: ignore[arg-type]
    return read(metrics)


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


def test_series_end_with_what_they_are_about() -> None:
    metrics = Metrics()
    device = gpu(0)
    metrics.observe(fleet(model("old", device), model("kept", device), devices=(device,)))
    for name in ("old", "kept"):
        metrics.on_request_held(name, 1.0)
        metrics.on_request_refused(name, "unavailable")
        metrics.on_cold_start(name)
        metrics.on_lost(name)
    metrics.observe(fleet(model("kept", device), devices=(device,)))
    text = metrics.render().decode()
    assert '"old"' not in text
    assert 'modelium_requests_refused_total{model="kept",reason="unavailable"} 1.0' in text


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


def test_events_are_counted() -> None:
    metrics = Metrics()
    metrics.on_load_finished(RuntimeName.VLLM, seconds=42.0, outcome="ready")
    metrics.on_load_finished(RuntimeName.VLLM, seconds=3.0, outcome="failed")
    metrics.on_evicted("idle")
    metrics.on_request_held("m", 4.0)
    metrics.on_decision(author="rules", trigger="demand", seconds=0.002)
    series = read(metrics)
    loads = series["modelium_load_duration_seconds_bucket"]
    ready = {"runtime": "vllm", "outcome": "ready"}
    assert (loads[at(**ready, le="30.0")], loads[at(**ready, le="60.0")]) == (0, 1)
    assert series["modelium_load_duration_seconds_sum"][at(runtime="vllm", outcome="failed")] == 3
    assert series["modelium_evictions_total"] == {at(reason="idle"): 1}
    assert series["modelium_request_wait_seconds_sum"] == {at(): 4.0}
    decided = at(author="rules", trigger="demand")
    assert series["modelium_decision_duration_seconds_count"] == {decided: 1}
    assert series.get("modelium_decision_fallbacks_total", {}) == {}


@pytest.mark.parametrize(
    ("fallback", "label"),
    [
        ("timeout", "timeout"),
        ("timeout: no answer within 30 s", "timeout"),
        ("The LLM said nothing for 31.2 s", "other"),
        ("x" * 100, "other"),
    ],
)
def test_fallback_reasons_are_bounded_as_labels(fallback: str, label: str) -> None:
    metrics = Metrics()
    metrics.on_decision(author="rules", trigger="review", seconds=1, fallback=fallback)
    assert read(metrics)["modelium_decision_fallbacks_total"] == {at(reason=label): 1}


def test_two_processes_parts_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.on_evicted("idle")
    assert "modelium_evictions_total" not in read(other)


def test_every_value_is_a_number() -> None:
    device = gpu(0)
    for series in shown(model("m", device), devices=(device,)).values():
        assert not any(math.isnan(value) for value in series.values())


async def test_exporter_serves_the_series_and_ends_with_its_context() -> None:
    metrics = Metrics()
    metrics.observe(fleet(model("m", gpu(0))))
    async with metrics.exporter(host="127.0.0.1", port=0) as exporter, httpx.AsyncClient() as http:
        url = f"{exporter.url}/metrics"
        answer = await http.get(url)
        assert answer.status_code == 200
        assert 'modelium_model_qps{gpu="' in answer.text
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(url)


async def test_exporter_on_a_taken_port_says_what_to_set() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"prometheus_port.*{port}.*free port"):
            await Metrics().exporter(host="127.0.0.1", port=port).__aenter__()


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


def test_phases_restarts_refusals_stages_and_looks_are_counted() -> None:
    metrics = Metrics()
    metrics.observe(fleet(model("m")))
    metrics.on_load_phase(RuntimeName.VLLM, "Loading weights", seconds=12)
    metrics.on_lost("m")
    metrics.on_plan_refused(["pinned", "pinned", "memory"])
    metrics.on_stage_finished("load", outcome="completed")
    metrics.on_stage_finished("load", outcome="load-failed")
    metrics.on_tick(seconds=0.02, failed=False)
    metrics.on_tick(seconds=0.3, failed=True)
    series = read(metrics)
    phase = at(runtime="vllm", phase="loading-weights")
    assert series["modelium_load_phase_seconds_sum"] == {phase: 12}
    assert series["modelium_model_restarts_total"] == {at(model="m"): 1}
    assert series["modelium_policy_refusals_total"] == {at(rule="pinned"): 1, at(rule="memory"): 1}
    runs = series["modelium_stage_runs_total"]
    assert {labels: count for labels, count in runs.items() if count} == {
        at(stage="load", outcome="completed"): 1,
        at(stage="load", outcome="load-failed"): 1,
    }
    assert runs[at(stage="decide", outcome="bug")] == 0, "an increase needs a beginning"
    assert series["modelium_look_duration_seconds_count"] == {at(): 2}
    assert series["modelium_look_failures_total"] == {at(): 1}
    assert series["process_start_time_seconds"][at()] > 0


def test_what_clients_and_engines_make_up_gets_no_series_of_its_own() -> None:
    metrics = Metrics()
    metrics.observe(fleet(model("m")))
    for i in range(1000):
        metrics.on_request_refused(f"made-up-{i}", "unavailable")
        metrics.on_load_phase(RuntimeName.VLLM, f"shard {i}", seconds=1)
    series = read(metrics)
    assert series["modelium_requests_refused_total"] == {
        at(model="other", reason="unavailable"): 1000
    }
    assert len(series["modelium_load_phase_seconds_count"]) == 33


def test_whether_prefect_is_connected_is_asked_at_each_scrape() -> None:
    metrics, answers = Metrics(), iter((True, False))
    metrics.show_prefect(lambda: next(answers))
    assert read(metrics)["modelium_prefect_connected"] == {at(): 1}
    assert read(metrics)["modelium_prefect_connected"] == {at(): 0}
