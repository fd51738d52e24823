"""Counters per application from Ray's metrics text (no I/O here).

Names: https://docs.ray.io/en/latest/serve/monitoring.html#metrics (2.60).
"""

from __future__ import annotations

from collections.abc import Mapping

from modelium.ports import EngineStats
from runtimes.loading.prometheus_text import samples

FAILED = "ray_serve_num_http_error_requests_total"


def counters(text: str, replicas: Mapping[str, str]) -> dict[str, EngineStats]:
    """Return the counters of each application, summed over its replicas.

    ``replicas`` maps each live replica to its application. Ray keeps the series of ended replicas
    for a while; they are ignored. Serve's proxy, which outlives replicas, counts failures (5xx)
    and the queue.
    """
    sums: dict[str, dict[str, float]] = {name: {} for name in replicas.values()}
    for name, labels, value in samples(text):
        application, replica = labels.get("application", ""), labels.get("replica")
        if application not in sums or (replica is not None and replica not in replicas):
            continue
        if name == FAILED and not labels.get("error_code", "").startswith("5"):
            continue
        sums[application][name] = sums[application].get(name, 0.0) + value
    return {
        application: EngineStats(
            running=int(found.get("ray_serve_replica_processing_queries", 0)),
            waiting=int(found.get("ray_serve_deployment_queued_queries", 0)),
            completed=int(found.get("ray_serve_deployment_request_counter_total", 0)),
            failed=int(found.get(FAILED, 0)),
            latency_sum_s=found.get("ray_serve_deployment_processing_latency_ms_sum", 0.0) / 1000,
        )
        for application, found in sums.items()
    }
