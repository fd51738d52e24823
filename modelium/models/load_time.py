"""Estimate of the time to load a model, for planners and for waiting clients (no I/O here)."""

from __future__ import annotations

from modelium.models import GIB, Model, RuntimeName
from modelium.models.runtimes import RUNTIMES

READ_BYTES_PER_S = GIB
"""Bytes of weights read per second if nothing was measured: one NVMe drive."""


def load_seconds(model: Model, runtime: RuntimeName | None = None) -> float:
    """Return the seconds of the model's last load, else an estimate: start-up plus reading."""
    if model.measured:
        return max(model.measured, key=lambda m: m.at).load_s
    held = model.deployment
    if held is not None and held.load_s is not None:
        return held.load_s
    runtime = runtime or (held.runtime if held else None)
    weights = model.profile.weight_bytes if model.profile else 0
    return (RUNTIMES[runtime].start_s if runtime else 0.0) + weights / READ_BYTES_PER_S
