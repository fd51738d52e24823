"""Counters and histograms."""

from __future__ import annotations

import pytest

from modelium.metrics import Metrics
from modelium.models import (
    RuntimeName,
)
from tests.modelium.metrics.conftest import at, fleet, gpu, model, read


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
    metrics.on_request_lines_lost(5)
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
    assert series["modelium_request_log_lost_lines_total"] == {at(): 5}
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
