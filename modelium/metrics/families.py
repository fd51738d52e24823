"""The gauges of a fleet (no I/O here)."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from modelium.lifecycle import ModelState
from modelium.metrics.node_families import node_families, planner_family
from modelium.metrics.team_families import team_families
from modelium.models import Booking, Device, Fleet, Model

NOWHERE = "none"
"""The runtime and gpu labels of a model that has traffic but is not loaded."""


def device_labels(devices: Iterable[Device]) -> dict[str, str]:
    """Return device id → ``gpu`` label: the index, or ``node/index`` if nodes share that index."""
    found = tuple(devices)
    used = Tally(d.label for d in found)
    return {d.id: d.label if used[d.label] == 1 else f"{d.node}/{d.index}" for d in found}


def families(fleet: Fleet, *, node: str = "") -> Iterator[Metric]:
    """Yield the gauges of ``fleet``.

    Args:
        fleet: with the devices, runtimes and models of all nodes.
        node: that they are shown on. Each shows what it answers for itself, and the one that plans
            also what is nobody's: over all nodes, each series is there once.
    """
    labels = device_labels(fleet.devices)
    shown, whole = _share(fleet, node)
    yield from _model_families(shown, labels)
    yield from _work_families(shown, labels)
    yield from _memory_families(_of_models(shown))
    yield from _device_families(shown, labels)
    yield from _own_families(shown)
    if whole:
        yield from _fleet_families(fleet)
        yield from team_families(fleet)
        yield from node_families(fleet)
    if fleet.nodes:
        yield planner_family(fleet, node)


def _share(fleet: Fleet, node: str) -> tuple[Fleet, bool]:
    """Return what ``node`` shows of ``fleet``, and whether it shows what is nobody's, too."""
    own = fleet.nodes_by_name.get(node)
    if own is None:
        return fleet, True
    models = tuple(
        m for m in fleet.models if (m.deployment.node == node if m.deployment else own.plans)
    )
    names, begins = {model.name for model in models}, f"{node}/"
    fields = {
        "models": models,
        "devices": tuple(device for device in fleet.devices if device.node == node),
        "runtimes": tuple(runtime for runtime in fleet.runtimes if runtime.node == node),
        "bookings": tuple(
            b for b in fleet.bookings if b.model in names or b.device.startswith(begins)
        ),
    }
    return fleet.model_copy(update=fields), own.plans


def _of_models(fleet: Fleet) -> Fleet:
    """Return ``fleet`` without bookings of what others answer for: parts of models over nodes."""
    if not fleet.nodes:
        return fleet
    held = tuple(b for b in fleet.bookings if b.model in fleet.models_by_name)
    return fleet.model_copy(update={"bookings": held})


def _model_families(fleet: Fleet, labels: dict[str, str]) -> Iterator[Metric]:
    placed = ("model", "runtime", "gpu")
    qps = GaugeMetricFamily(
        "modelium_model_qps", "Requests per second in the last minute.", labels=placed
    )
    latency = GaugeMetricFamily(
        "modelium_model_latency",
        "Median latency in seconds of the last 256 successful requests, at the engine.",
        labels=placed,
    )
    p99 = GaugeMetricFamily(
        "modelium_model_latency_p99_seconds",
        "99th percentile latency in seconds of the last 256 successful requests, at the engine.",
        labels=placed,
    )
    idle = GaugeMetricFamily(
        "modelium_model_idle_seconds",
        "Seconds since the last request of a loaded model.",
        labels=["model"],
    )
    state = GaugeMetricFamily(
        "modelium_model_state", "1 for the model's current state.", labels=["model", "state"]
    )
    in_flight = GaugeMetricFamily(
        "modelium_model_requests_in_flight", "Requests at the engine.", labels=["model"]
    )
    pending = GaugeMetricFamily(
        "modelium_model_requests_pending", "Requests waiting for a load.", labels=["model"]
    )
    requests = CounterMetricFamily(
        "modelium_model_requests",
        "Finished requests at an engine, by outcome.",
        labels=["model", "outcome"],
    )
    direct = CounterMetricFamily(
        "modelium_model_requests_direct",
        "Finished requests at an engine that bypassed the gateway.",
        labels=["model"],
    )
    failures = GaugeMetricFamily(
        "modelium_model_load_failures",
        "Failed loads, and losses soon after one, in a row.",
        labels=["model"],
    )
    quarantined = GaugeMetricFamily(
        "modelium_model_quarantined",
        "1 for a model that failed so often that it is not tried again by itself.",
        labels=["model"],
    )
    for model in fleet.models:
        where = _place(model, labels)
        if model.deployment is not None or model.traffic.first_request_at is not None:
            qps.add_metric(where, model.traffic.qps)
        if model.traffic.latency_p50_s is not None:
            latency.add_metric(where, model.traffic.latency_p50_s)
        if model.traffic.latency_p99_s is not None:
            p99.add_metric(where, model.traffic.latency_p99_s)
        if model.deployment is not None:
            idle.add_metric([model.name], model.idle_s(fleet.at))
        state.add_metric([model.name, model.state], 1)
        in_flight.add_metric([model.name], model.traffic.in_flight)
        pending.add_metric([model.name], model.traffic.pending)
        failures.add_metric([model.name], model.failures)
        quarantined.add_metric([model.name], float(model.quarantined))
        requests.add_metric([model.name, "completed"], model.traffic.completed)
        requests.add_metric([model.name, "failed"], model.traffic.failed)
        direct.add_metric([model.name], model.traffic.direct)
    yield from (qps, latency, idle, p99, state, in_flight, pending, requests, direct)
    yield from (failures, quarantined)


def _work_families(fleet: Fleet, labels: dict[str, str]) -> Iterator[Metric]:
    placed = ("model", "runtime", "gpu")
    utilization = GaugeMetricFamily(
        "modelium_model_gpu_utilization",
        "Share of time in which a model used its GPUs, from 0 to 1; absent where nobody can tell.",
        labels=placed,
    )
    throughput = GaugeMetricFamily(
        "modelium_model_requests_per_second",
        "Requests per second that ended in the last minute.",
        labels=placed,
    )
    token_rate = GaugeMetricFamily(
        "modelium_model_tokens_per_second",
        "Tokens per second in the last minute.",
        labels=(*placed, "kind"),
    )
    tokens = CounterMetricFamily(
        "modelium_model_tokens", "Tokens read and generated.", labels=["model", "kind"]
    )
    queue = GaugeMetricFamily(
        "modelium_model_queue_seconds",
        "Mean seconds in the engine's queue of the last 256 requests.",
        labels=placed,
    )
    queued = GaugeMetricFamily(
        "modelium_model_requests_queued", "Requests in the engine's queue.", labels=["model"]
    )
    for model in fleet.models:
        where, traffic = _place(model, labels), model.traffic
        if traffic.gpu_utilization is not None:
            utilization.add_metric(where, traffic.gpu_utilization)
        if model.deployment is not None:
            throughput.add_metric(where, traffic.ended_per_s)
            queued.add_metric([model.name], traffic.queued)
        if model.deployment is not None and traffic.queue_s is not None:
            queue.add_metric(where, traffic.queue_s)
        if traffic.prompt_tokens or traffic.generated_tokens:
            token_rate.add_metric([*where, "prompt"], traffic.prompt_tokens_per_s)
            token_rate.add_metric([*where, "generated"], traffic.generated_tokens_per_s)
            tokens.add_metric([model.name, "prompt"], traffic.prompt_tokens)
            tokens.add_metric([model.name, "generated"], traffic.generated_tokens)
    yield from (utilization, throughput, token_rate, tokens, queue, queued)


def _place(model: Model, labels: dict[str, str]) -> list[str]:
    """Return the label values of a model; devices are joined, so that sums count it once."""
    deployment = model.deployment
    if deployment is None:
        return [model.name, NOWHERE, NOWHERE]
    gpus = sorted(labels.get(device, device) for device in deployment.devices)
    return [model.name, deployment.runtime, ",".join(gpus)]


def _memory_families(fleet: Fleet) -> Iterator[Metric]:
    booked = GaugeMetricFamily(
        "modelium_model_memory_booked_bytes",
        "Bytes booked for a model on all its devices.",
        labels=["model"],
    )
    resident = GaugeMetricFamily(
        "modelium_model_memory_resident_bytes",
        "Measured bytes used by a model on all its devices; absent where nobody can tell.",
        labels=["model"],
    )
    error = GaugeMetricFamily(
        "modelium_model_memory_estimate_error",
        "(booked - used) / used of a ready model's memory; negative: too little was booked.",
        labels=["model", "runtime"],
    )
    held: dict[str, list[Booking]] = {}
    for booking in fleet.bookings:
        held.setdefault(booking.model, []).append(booking)
    for name, bookings in held.items():
        model = fleet.models_by_name.get(name)
        wanted = sum(b.bytes for b in bookings)
        booked.add_metric([name], wanted)
        if any(b.resident_bytes is None for b in bookings):
            continue
        seen = sum(b.resident_bytes or 0 for b in bookings)
        resident.add_metric([name], seen)
        if model and model.deployment and model.state is ModelState.READY and seen:
            error.add_metric([name, model.deployment.runtime], (wanted - seen) / seen)
    yield from (booked, resident, error)


def _device_families(fleet: Fleet, labels: dict[str, str]) -> Iterator[Metric]:
    used = GaugeMetricFamily(
        "modelium_gpu_memory_used", "Bytes in use by all processes.", labels=["gpu"]
    )
    utilization = GaugeMetricFamily("modelium_gpu_utilization", "From 0 to 1.", labels=["gpu"])
    total = GaugeMetricFamily("modelium_gpu_memory_total_bytes", "Bytes in total.", labels=["gpu"])
    booked = GaugeMetricFamily(
        "modelium_gpu_memory_booked_bytes", "Bytes booked for models.", labels=["gpu"]
    )
    resident = GaugeMetricFamily(
        "modelium_gpu_memory_resident_bytes",
        "Measured bytes used by models.",
        labels=["gpu"],
    )
    healthy = GaugeMetricFamily(
        "modelium_gpu_healthy", "1 if the device is usable.", labels=["gpu"]
    )
    for device in fleet.devices:
        gpu = [labels[device.id]]
        bookings = fleet.bookings_by_device.get(device.id, ())
        used.add_metric(gpu, device.total_bytes - device.free_bytes)
        if device.utilization is not None:
            utilization.add_metric(gpu, device.utilization)
        total.add_metric(gpu, device.total_bytes)
        booked.add_metric(gpu, sum(b.bytes for b in bookings))
        resident.add_metric(gpu, sum(b.resident_bytes or 0 for b in bookings))
        healthy.add_metric(gpu, device.healthy)
    yield from (used, utilization, total, booked, resident, healthy)


def _fleet_families(fleet: Fleet) -> Iterator[Metric]:
    states = GaugeMetricFamily("modelium_models", "Models in each state.", labels=["state"])
    counts = Tally(model.state for model in fleet.models)
    for state in ModelState:
        states.add_metric([state], counts[state])
    yield states
    waiting = [
        model.queued_at or model.state_since
        for model in fleet.models
        if model.state is ModelState.QUEUED
    ]
    yield GaugeMetricFamily("modelium_queue_length", "Queued models.", value=len(waiting))
    yield GaugeMetricFamily(
        "modelium_queue_oldest_seconds",
        "Longest time that a model has been queued; 0 if none is.",
        value=max(0.0, fleet.at - min(waiting, default=fleet.at)),
    )


def _own_families(fleet: Fleet) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "modelium_snapshot_timestamp_seconds",
        "Time of the control loop's last snapshot (seconds since the epoch).",
        value=fleet.at,
    )
    up = GaugeMetricFamily("modelium_runtime_up", "1 if the runtime answers.", labels=["runtime"])
    for runtime in fleet.runtimes:
        if runtime.enabled:
            up.add_metric([runtime.name], runtime.healthy)
    yield up
