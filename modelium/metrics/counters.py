"""What happened, counted: the series that outlive a snapshot."""

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
"""Different values that a free label takes in one process; further ones become `OTHER`."""

OTHER = "other"
"""The label of what has no label of its own."""

_SLUG = re.compile(r"[a-z][a-z0-9-]{0,39}")
_NOT_SLUG = re.compile(r"[^a-z0-9]+")


class Metrics:
    """All series of one process, in a registry of its own. Safe from any thread."""

    def __init__(self) -> None:
        """Start with no fleet seen."""
        self._fleet: Fleet | None = None
        self._phases: set[str] = set()
        self._registry = CollectorRegistry()
        self._registry.register(_FleetCollector(self))
        ProcessCollector(registry=self._registry)
        self._loads = self._histogram(
            "load_duration", "Duration of loads that ended.", LOAD_BUCKETS_S, "runtime", "outcome"
        )
        self._load_phases = self._histogram(
            "load_phase",
            "Duration of each phase of loads, as the runtime tells them.",
            LOAD_BUCKETS_S,
            *("runtime", "phase"),
        )
        self._waits = self._histogram(
            "request_wait", "How long requests were held for their model.", WAIT_BUCKETS_S
        )
        self._decisions = self._histogram(
            "decision_duration",
            "Time to a decision, by author and trigger.",
            DECISION_BUCKETS_S,
            *("author", "trigger"),
        )
        self._looks = self._histogram(
            "look_duration", "Duration of the control loop's looks.", LOOK_BUCKETS_S
        )
        self._held = self._counter("requests_held", "Requests that waited for a load.", "model")
        self._refused = self._counter(
            "requests_refused", "Requests answered 429 or 503, by reason.", "model", "reason"
        )
        self._cold_starts = self._counter("cold_starts", "Loads that requests waited for.", "model")
        self._restarts = self._counter(
            "model_restarts", "Times that a loaded model was lost and queued again.", "model"
        )
        self._evictions = self._counter("evictions", "Unloads, by reason.", "reason")
        self._fallbacks = self._counter(
            "decision_fallbacks", "Plans in place of a better author's.", "reason"
        )
        self._refusals = self._counter("policy_refusals", "Rules that refused plans broke.", "rule")
        self._stages = self._counter(
            "stage_runs", "Runs of stages (Prefect flows) that ended.", "stage", "outcome"
        )
        self._failed_looks = self._counter("look_failures", "Looks of the loop that failed.")
        for stage in get_args(Stage):
            for outcome in ("completed", "cancelled", "bug"):
                self._stages.labels(stage, outcome)

    def observe(self, fleet: Fleet) -> None:
        """Show ``fleet`` from now on; series of models that it lacks end."""
        before = self._fleet.models_by_name.keys() if self._fleet else frozenset()
        for model in before - fleet.models_by_name.keys():
            for counter in (self._held, self._refused, self._cold_starts, self._restarts):
                counter.remove_by_labels({"model": model})
        for model in fleet.models_by_name.keys() - before:
            # From 0, or Prometheus would not see the first ones as an increase.
            for counter in (self._held, self._cold_starts, self._restarts):
                counter.labels(model)
        self._fleet = fleet

    @property
    def fleet(self) -> Fleet | None:
        """What `observe` was given last."""
        return self._fleet

    def on_load_finished(self, runtime: RuntimeName, *, seconds: float, outcome: str) -> None:
        """Count a load that ended: ``ready``, ``failed`` or ``cancelled``."""
        self._loads.labels(runtime, outcome).observe(seconds)

    def on_load_phase(self, runtime: RuntimeName, phase: str, *, seconds: float) -> None:
        """Count a phase of a load that ended; ``phase`` is the runtime's word for it."""
        slug = _NOT_SLUG.sub("-", phase.lower()).strip("-")
        if len(self._phases) < MOST_LABELS:
            self._phases.add(slug)
        self._load_phases.labels(runtime, slug if slug in self._phases else OTHER).observe(seconds)

    def on_evicted(self, reason: str) -> None:
        """Count an unload; ``reason`` is a slug such as ``idle``, ``space``, ``operator``."""
        self._evictions.labels(reason).inc()

    def on_lost(self, model: str) -> None:
        """Count a loaded model that its runtime lost; it is to be loaded again."""
        self._restarts.labels(self._label(model)).inc()

    def on_decision(self, *, author: str, trigger: str, seconds: float, fallback: str = "") -> None:
        """Count a plan.

        ``fallback`` says why a better author's was not used; as a label it is cut down to the
        slug that it is or begins with (``timeout: …``), else ``other``.
        """
        self._decisions.labels(author, trigger).observe(seconds)
        if fallback:
            slug = fallback.partition(":")[0]
            self._fallbacks.labels(slug if _SLUG.fullmatch(slug) else OTHER).inc()

    def on_plan_refused(self, rules: Iterable[str]) -> None:
        """Count a plan that the policy forbids, under each rule that it breaks."""
        for rule in set(rules):
            self._refusals.labels(rule).inc()

    def on_stage_finished(self, stage: str, *, outcome: str) -> None:
        """Count a run; ``outcome``: ``completed``, ``cancelled``, ``bug``, or an error's slug."""
        self._stages.labels(stage, outcome).inc()

    def on_tick(self, *, seconds: float, failed: bool) -> None:
        """Count a look of the control loop."""
        self._looks.observe(seconds)
        if failed:
            self._failed_looks.inc()

    def on_cold_start(self, model: str) -> None:
        """Count a load that ended while requests waited for it."""
        self._cold_starts.labels(self._label(model)).inc()

    def on_request_held(self, model: str, waited_s: float) -> None:
        """Count a request that waited ``waited_s`` for its model, in vain or not."""
        self._held.labels(self._label(model)).inc()
        self._waits.observe(waited_s)

    def on_request_refused(self, model: str, reason: str) -> None:
        """Count a request that got a 429 or 503; ``reason`` is the error's slug."""
        self._refused.labels(self._label(model), reason).inc()

    def show_prefect(self, connected: Callable[[], bool]) -> None:
        """Ask ``connected`` at each scrape whether stages are recorded; cheap, never raises."""
        gauge = Gauge(
            "modelium_prefect_connected",
            "1 while runs of stages are recorded in Prefect.",
            registry=self._registry,
        )
        gauge.set_function(lambda: float(connected()))

    def render(self) -> bytes:
        """Return all series in Prometheus' text format; blocks for about 10 µs a series."""
        return generate_latest(self._registry)

    def exporter(self, *, host: str, port: int) -> Exporter:
        """Return the listener that serves them; entering it starts it."""
        return Exporter(registry=self._registry, host=host, port=port)

    def _label(self, model: str) -> str:
        """``model`` if the fleet has it: what clients make up gets no series of its own."""
        known = self._fleet is None or model in self._fleet.models_by_name
        return model if known else OTHER

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
    """Renders the last fleet at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        fleet = self._metrics.fleet
        if fleet is not None:
            yield from families(fleet)

    def describe(self) -> Iterable[Metric]:
        # Without it, registering would collect.
        return []
