"""Estimate of the time to load a model, for planners and for waiting clients (no I/O here)."""

from __future__ import annotations

from modelium.models import GIB, Fleet, Model, RuntimeName
from modelium.models.runtimes import RUNTIMES

READ_BYTES_PER_S = GIB
"""Bytes of weights read per second if nothing was measured: one NVMe drive."""

FETCH_BYTES_PER_S = 500_000_000
"""Bytes of files that a node fetches from another one per second if nothing was measured: half of
a link of 10 Gbit/s."""


def fetch_seconds(model: Model, node: str, fleet: Fleet) -> float:
    """Return the seconds in which ``node`` fetches the files of ``model``; 0 where it has them."""
    having = fleet.files.get(model.name)
    if having is None or node in having or model.profile is None:
        return 0.0
    known = fleet.nodes_by_name.get(node)
    speed = known.report.fetch_bytes_per_s if known else None
    return model.profile.weight_bytes / (speed or FETCH_BYTES_PER_S)


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


SHORTEST_BOUND_S = 1800.0
FIRST_START_S = 3600.0
"""A first start compiles kernels and captures graphs: 8 to 37 minutes were reported (vllm#43189,
#34399)."""
SLOWEST_READ_BYTES_PER_S = 50_000_000
"""A busy network file system."""
SLOWER_AGAIN = 10.0
"""How much longer than before a load may take: caches are lost, disks are busy."""


def load_bound_s(model: Model, runtime: RuntimeName) -> float:
    """Return the seconds after which a load that still makes progress is given up.

    Drivers give up one that makes no progress much earlier.
    """
    known = [load.load_s for load in model.measured if load.runtime is runtime]
    if known:
        return max(SHORTEST_BOUND_S, SLOWER_AGAIN * max(known))
    weights = model.profile.weight_bytes if model.profile else 0
    return FIRST_START_S + weights / SLOWEST_READ_BYTES_PER_S
