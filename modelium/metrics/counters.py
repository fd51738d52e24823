"""Counters and histograms: the series that outlive a snapshot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from modelium.metrics.exporter import Exporter
from modelium.metrics.families import families
from modelium.models import Fleet, RuntimeName
from modelium.ports import Stage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

LOAD_BUCKETS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)
WAIT_BUCKETS_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
DECISION_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)
LOOK_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)

MOST_LABELS = 32
"""Limit for the values of a free-form label in one process; further ones become `OTHER`."""

OTHER = "other"
"""The label of values that get none of their own."""

_SLUG = re.compile(r"[a-z][a-z0-9-]{0,39}")
_NOT_SLUG = re.compile(r"[^a-z0-9]+")


class Metrics:
    """All series of one process, in a registry of its own. Thread-safe."""

    def __init__(self) -> None:
        """Start without a fleet."""
        self._fleet: Fleet | None = None
        self.node = ""
        """Of several, the one that shows this."""
        self._phases: set[str] = set()
        self._registry = CollectorRegistry()
        self._registry.register(_FleetCollector(self))
        ProcessCollector(registry=self._registry)
        self._loads = self._histogram(
            "load_duration", "Duration of finished loads.", LOAD_BUCKETS_S, "runtime", "outcome"
        )
        self._load_phases = self._histogram(
            "load_phase",
            "Duration of the phases of loads, as reported by the runtime.",
            LOAD_BUCKETS_S,
            *("runtime", "phase"),
        )
        self._waits = self._histogram(
            "request_wait", "How long requests waited for their model.", WAIT_BUCKETS_S
        )
        self._decisions = self._histogram(
            "decision_duration",
            "Duration of decisions, by author and trigger.",
            DECISION_BUCKETS_S,
            *("author", "trigger"),
        )
        self._looks = self._histogram(
            "look_duration", "Duration of the control loop's cycles.", LOOK_BUCKETS_S
        )
        self._held = self._counter("requests_held", "Requests that waited for a load.", "model")
        self._refused = self._counter(
            "requests_refused", "Requests answered with 429 or 503, by reason.", "model", "reason"
        )
        self._unauthorized = self._counter(
            "requests_unauthorized", "Requests without valid credentials, by reason.", "reason"
        )
        self._cold_starts = self._counter("cold_starts", "Loads that requests waited for.", "model")
        self._restarts = self._counter(
            "model_restarts",
            "Loaded models that disappeared from their runtime.",
            "model",
        )
        self._evictions = self._counter("evictions", "Unloads, by reason.", "reason")
        self._fallbacks = self._counter(
            "decision_fallbacks",
            "Plans that replaced a preferred author's.",
            "reason",
        )
        self._refusals = self._counter(
            "policy_refusals", "Violations in refused plans, by rule.", "rule"
        )
        self._stages = self._counter(
            "stage_runs", "Finished runs of stages (Prefect flows).", "stage", "outcome"
        )
        self._failed_looks = self._counter("look_failures", "Failed cycles of the control loop.")
        self._lost_lines = self._counter(
            "request_log_lost_lines", "Answered requests that the request log lacks."
        )
        self._failed_tasks = self._counter(
            "task_failures", "Errors that ended a background task, which is begun again.", "task"
        )
        for stage in get_args(Stage):
            for outcome in ("completed", "cancelled", "bug"):
                self._stages.labels(stage, outcome)

    def observe(self, fleet: Fleet) -> None:
        """Show ``fleet`` from now on; drops the series of models that it does not have."""
        before = self._fleet.models_by_name.keys() if self._fleet else frozenset()
        for model in before - fleet.models_by_name.keys():
            for counter in (self._held, self._refused, self._cold_starts, self._restarts):
                counter.remove_by_labels({"model": model})
        for model in fleet.models_by_name.keys() - before:
            # Start at 0, or Prometheus would not count the first event as an increase.
            for counter in (self._held, self._cold_starts, self._restarts):
                counter.labels(model)
        self._fleet = fleet

    @property
    def fleet(self) -> Fleet | None:
        """The last fleet given to `observe`."""
        return self._fleet

    def on_load_finished(self, runtime: RuntimeName, *, seconds: float, outcome: str) -> None:
        """Count a finished load; ``outcome``: ``ready``, ``failed`` or ``cancelled``."""
        self._loads.labels(runtime, outcome).observe(seconds)

    def on_load_phase(self, runtime: RuntimeName, phase: str, *, seconds: float) -> None:
        """Count a finished phase of a load; ``phase`` is the runtime's name for it."""
        slug = _NOT_SLUG.sub("-", phase.lower()).strip("-")
        if len(self._phases) < MOST_LABELS:
            self._phases.add(slug)
        self._load_phases.labels(runtime, slug if slug in self._phases else OTHER).observe(seconds)

    def on_evicted(self, reason: str) -> None:
        """Count an unload; ``reason`` is a slug such as ``idle``, ``space``, ``operator``."""
        self._evictions.labels(reason).inc()

    def on_lost(self, model: str) -> None:
        """Count a loaded model that disappeared from its runtime and will be loaded again."""
        self._restarts.labels(self._label(model)).inc()

    def on_decision(self, *, author: str, trigger: str, seconds: float, fallback: str = "") -> None:
        """Count a plan.

        ``fallback``: why a preferred author's plan was not used. Its label is the slug that it
        is or begins with (``timeout: …``), else ``other``.
        """
        self._decisions.labels(author, trigger).observe(seconds)
        if fallback:
            slug = fallback.partition(":")[0]
            self._fallbacks.labels(slug if _SLUG.fullmatch(slug) else OTHER).inc()

    def on_plan_refused(self, rules: Iterable[str]) -> None:
        """Count a plan that the policy refused, once for each rule that it violates."""
        for rule in set(rules):
            self._refusals.labels(rule).inc()

    def on_stage_finished(self, stage: str, *, outcome: str) -> None:
        """Count a finished run; ``outcome``: ``completed``, ``cancelled``, ``bug`` or a slug."""
        self._stages.labels(stage, outcome).inc()

    def on_tick(self, *, seconds: float, failed: bool) -> None:
        """Count a cycle of the control loop."""
        self._looks.observe(seconds)
        if failed:
            self._failed_looks.inc()

    def on_request_lines_lost(self, count: int) -> None:
        """Count lines of the request log that were dropped."""
        self._lost_lines.inc(count)

    def on_task_failed(self, task: str) -> None:
        """Count an error that ended a background task."""
        self._failed_tasks.labels(task).inc()

    def on_cold_start(self, model: str) -> None:
        """Count a load that finished while requests waited for it."""
        self._cold_starts.labels(self._label(model)).inc()

    def on_request_held(self, model: str, waited_s: float) -> None:
        """Count a request that waited ``waited_s`` for its model, admitted or not."""
        self._held.labels(self._label(model)).inc()
        self._waits.observe(waited_s)

    def on_request_refused(self, model: str, reason: str) -> None:
        """Count a request that got a 429 or 503; ``reason`` is the error's slug.

        ``model`` is empty where the request was refused before its body, which names it.
        """
        self._refused.labels(self._label(model), reason).inc()

    def on_unauthorized(self, reason: str) -> None:
        """Count a request without valid credentials; ``reason`` is a slug, none of a client's."""
        self._unauthorized.labels(reason).inc()

    def show_prefect(self, connected: Callable[[], bool]) -> None:
        """Add a gauge of ``connected``, which is called at each scrape: cheap, never raises."""
        gauge = Gauge(
            "modelium_prefect_connected",
            "1 while stage runs are recorded in Prefect.",
            registry=self._registry,
        )
        gauge.set_function(lambda: float(connected()))

    def render(self) -> bytes:
        """Return all series in Prometheus' text format; blocks for about 10 µs per series."""
        return generate_latest(self._registry)

    def exporter(self, *, host: str, port: int, token: str | None = None) -> Exporter:
        """Return the HTTP server of the series, behind ``token``; entering it starts it."""
        return Exporter(registry=self._registry, host=host, port=port, token=token)

    def _label(self, model: str) -> str:
        """Return ``model`` if the fleet has it, else `OTHER`: clients must not create series."""
        known = self._fleet is None or model in self._fleet.models_by_name
        return model if model and known else OTHER

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"modelium_{name}", documentation, labels, registry=self._registry)

    def _histogram(
        self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"modelium_{name}_seconds",
            documentation,
            labels,
            buckets=buckets,
            registry=self._registry,
        )


class _FleetCollector:
    """Collects the gauges of the last fleet at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        fleet = self._metrics.fleet
        if fleet is not None:
            yield from families(fleet, node=self._metrics.node)

    def describe(self) -> Iterable[Metric]:
        # Without this method, registering would collect.
        return []
