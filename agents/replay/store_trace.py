"""A trace from the request log and the models of a store (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.replay.traces import ReplayModel, Request, Trace
from modelium import analysis
from modelium.errors import InputError
from modelium.models import Model
from modelium.models.load_time import load_seconds
from modelium.traffic.request_log import LoggedRequest


def trace_from_log(models: Iterable[Model], lines: Sequence[LoggedRequest]) -> Trace:
    """Return the trace of ``lines``, without requests for models that are no longer registered.

    A model's size is that of its last measured load, or the estimate for the first runtime that
    supports it; a request's service time is its recorded latency.

    Raises:
        InputError: no request is left.
    """
    requested = {line.model for line in lines}
    known = tuple(_model(m, size) for m in models if m.name in requested and (size := _bytes(m)))
    index = {model.name: i for i, model in enumerate(known)}
    kept = [line for line in lines if line.model in index]
    if not kept:
        raise InputError(
            "the request log has no requests for registered models: wait for traffic, raise "
            "--days, or check that orchestration.metrics.request_log is on"
        )
    kept.sort(key=lambda line: line.at)
    first = kept[0].at
    return Trace(
        models=known,
        requests=tuple(Request(x.at - first, index[x.model], x.latency_s) for x in kept),
    )


def _model(model: Model, size: int) -> ReplayModel:
    return ReplayModel(
        name=model.name, bytes=size, load_s=load_seconds(model), priority=model.priority
    )


def _bytes(model: Model) -> int:
    """Return the bytes on all its devices together; 0 where they are unknown."""
    devices = len(model.deployment.devices) if model.deployment else 1
    if model.measured:
        return max(model.measured, key=lambda m: m.at).per_device_bytes * devices
    if model.profile is None:
        return 0
    runtime = next((s.runtime for s in model.profile.runtimes if s.supported), None)
    if runtime is None:
        return model.profile.weight_bytes
    return analysis.estimate(model.profile, runtime=runtime).reserve
