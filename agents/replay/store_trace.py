"""What a replay is fed with when it comes from the store: the request log and its models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.replay.traces import ReplayModel, Request, Trace
from modelium import analysis
from modelium.errors import InputError
from modelium.models import Model
from modelium.models.load_time import load_seconds
from modelium.traffic.request_log import LoggedRequest


def recorded(models: Iterable[Model], lines: Sequence[LoggedRequest]) -> Trace:
    """Make a trace of ``lines``; requests for models that are gone are left out.

    A model takes what its last load was measured to take, else the estimate for the first
    runtime that supports it; a request takes what it took at the engine.

    Raises:
        InputError: nothing is left.
    """
    asked = {line.model for line in lines}
    known = tuple(_model(m, size) for m in models if m.name in asked and (size := _bytes(m)))
    index = {model.name: i for i, model in enumerate(known)}
    kept = [line for line in lines if line.model in index]
    if not kept:
        raise InputError(
            "the request log holds no requests for models of this store: wait for some traffic, "
            "go further back with --days, and check orchestration.metrics.request_log"
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
    """Bytes on all its devices together; 0 where nothing is known."""
    devices = len(model.deployment.devices) if model.deployment else 1
    if model.measured:
        return max(model.measured, key=lambda m: m.at).per_device_bytes * devices
    if model.profile is None:
        return 0
    runtime = next((s.runtime for s in model.profile.runtimes if s.supported), None)
    if runtime is None:
        return model.profile.weight_bytes
    return analysis.estimate(model.profile, runtime=runtime).reserve
