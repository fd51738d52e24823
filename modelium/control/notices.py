"""What operators should know beside the models, one sentence each (no I/O here)."""

from __future__ import annotations

import time

from modelium.stages.sweeps import Sweeps


def of_sweeps(sweeps: Sweeps) -> list[str]:
    """Return what differs from the configured unloading of idle models."""
    if sweeps.paused_since is None:
        return []
    since = time.strftime("%F %T", time.localtime(sweeps.paused_since))
    return [
        f"idle evictions are paused in Prefect since {since}; resume the schedule of evict/evict "
        "there to unload idle models again"
    ]
