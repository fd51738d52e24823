"""Counters per application from Ray's metrics text."""

from __future__ import annotations

from runtimes.ray.serve_metrics import counters

TEXT = """# HELP ray_serve_deployment_request_counter_total requests
# TYPE ray_serve_deployment_request_counter_total counter
ray_serve_deployment_request_counter_total{application="a",replica="r1",route="/a"} 5.0
ray_serve_deployment_request_counter_total{application="a",replica="r2",route="/a"} 7.0
ray_serve_deployment_request_counter_total{application="a",replica="gone",route="/a"} 100.0
ray_serve_deployment_request_counter_total{application="b",replica="r9",route="/b"} 3.0
ray_serve_deployment_processing_latency_ms_sum{application="a",replica="r1"} 1500.0
ray_serve_replica_processing_queries{application="a",replica="r2"} 2.0
ray_serve_deployment_queued_queries{application="a",deployment="model",handle="h"} 4.0
ray_serve_num_http_error_requests_total{application="a",error_code="500"} 1.0
ray_serve_num_http_error_requests_total{application="a",error_code="400"} 50.0
ray_node_mem_used{} 12
not a sample
"""


def test_live_replicas_of_our_applications_are_summed() -> None:
    found = counters(TEXT, {"r1": "a", "r2": "a"})
    assert set(found) == {"a"}
    assert found["a"].completed == 12
    assert found["a"].latency_sum_s == 1.5
    assert (found["a"].running, found["a"].waiting) == (2, 4)


def test_only_the_servers_own_failures_count_as_failed() -> None:
    assert counters(TEXT, {"r1": "a"})["a"].failed == 1


def test_an_application_without_series_counts_zero() -> None:
    assert counters("", {"r": "new"})["new"].completed == 0
