"""Fleets to show, and the samples that a scrape reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from modelium.lifecycle import ModelState
from modelium.metrics import Metrics
from modelium.models import (
    GIB,
    Deployment,
    Device,
    Fleet,
    LoadSettings,
    Model,
    RuntimeName,
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
